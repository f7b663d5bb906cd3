"""What determines a small backbone: its family, its sizes, and how it is pretrained."""

from __future__ import annotations

from dataclasses import dataclass

from .._utils.checks import check_integer, check_number, check_share

#: Families, and how transformers' classes of them begin.
FAMILIES = {"bert": "Bert", "modernbert": "ModernBert", "roberta": "Roberta"}
# The smallest value of each integer.
_LEAST = {"seed": 0, "steps": 1, "vocab_size": 300, "layers": 1, "hidden": 32, "batch_size": 1, "max_length": 8}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a masked LM is pretrained, checked at creation.

    Attributes:
        seed: of initial weights, order of texts and masking.
        steps: optimiser steps.
        batch_size: windows of text per step.
        max_length: tokens per window, [CLS] and [SEP] included.
        learning_rate: its peak, reached after a share ``warmup`` of the steps; then it falls linearly to zero.
        chosen: share of the tokens to predict.
        masked: share of the chosen tokens replaced by [MASK].
        random: share replaced by a random token. The rest stays, which teaches the head to name the token that is
            there: SPLADE starts from that.
    """

    seed: int = 0
    steps: int = 800
    batch_size: int = 16
    max_length: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.1
    chosen: float = 0.3
    masked: float = 0.7
    random: float = 0.05

    def __post_init__(self) -> None:
        """Check every value."""
        for name, value in vars(self).items():
            if name in _LEAST:
                check_integer(name, value, _LEAST[name])
            elif name in ("warmup", "chosen", "masked", "random"):
                check_share(name, value, ends=name != "chosen")
        check_number("learning_rate", self.learning_rate)
        if self.max_length > 512 or self.masked + self.random > 1:
            raise ValueError(
                "max_length must be at most 512, the number of positions, and masked + random at most 1, got "
                f"{self.max_length} and {self.masked + self.random:g}"
            )


@dataclass(frozen=True)
class BackboneSettings(Settings):
    """Sizes and pretraining of a small masked LM.

    Attributes:
        family: ``"bert"`` (WordPiece), ``"modernbert"`` or ``"roberta"`` (byte-level BPE).
        vocab_size: entries of the vocabulary, special tokens included.
        layers: encoder layers.
        hidden: H, the size of hidden states; a multiple of 32 (the size of an attention head).
        lowercase: fold case in the tokenizer.
    """

    family: str
    vocab_size: int = 8_000
    layers: int = 3
    hidden: int = 128
    lowercase: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.hidden % 32:
            raise ValueError(f"hidden must be a multiple of 32, got {self.hidden}")
