"""What determines a small backbone: its family, its sizes, and how it is pretrained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

FAMILIES = ("bert", "modernbert", "roberta")
BUILD = 2  # raise it when the way of pretraining changes: caches of another build are not used


@dataclass(frozen=True)
class BackboneSettings:
    """Sizes and pretraining of a small masked LM.

    Attributes:
        family: ``"bert"`` (WordPiece), ``"modernbert"`` or ``"roberta"`` (byte-level BPE).
        seed: of initial weights, order of texts and masking.
        steps: optimiser steps.
        vocab_size: entries of the vocabulary, special tokens included.
        layers: encoder layers.
        hidden: H, the size of hidden states; a multiple of 32 (the size of an attention head).
        batch_size: windows of text per step.
        max_length: tokens per window, [CLS] and [SEP] included.
        learning_rate: its peak, after `warmup` of the steps; then it falls linearly to zero.
        warmup: share of the steps.
        chosen: share of the tokens to predict.
        masked: share of the chosen tokens replaced by [MASK].
        random: share of the chosen tokens replaced by a random token. The rest stays as it is, which teaches the head
            to name the token that is there: SPLADE starts from that.
        lowercase: fold case in the tokenizer.
    """

    family: str
    seed: int = 0
    steps: int = 800
    vocab_size: int = 8_000
    layers: int = 3
    hidden: int = 128
    batch_size: int = 16
    max_length: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.1
    chosen: float = 0.3
    masked: float = 0.7
    random: float = 0.05
    lowercase: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: if one is out of range.
        """
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(map(repr, FAMILIES))}, got {self.family!r}")
        least = {"steps": 1, "vocab_size": 300, "layers": 1, "hidden": 32, "batch_size": 1, "max_length": 8, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an int >= {low}, got {value!r}")
        if self.hidden % 32:
            raise ValueError(f"hidden must be a multiple of 32, got {self.hidden}")
        if self.max_length > 512:
            raise ValueError(f"max_length must be at most 512, the number of positions, got {self.max_length}")
        for name in ("warmup", "chosen", "masked", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)!r}")
        if self.chosen == 0:
            raise ValueError("chosen must be above 0: there would be nothing to predict")
        if self.masked + self.random > 1:
            raise ValueError(f"masked + random must be at most 1, got {self.masked + self.random:g}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate!r}")

    @classmethod
    def make(cls, family: str, settings: dict[str, Any]) -> BackboneSettings:
        """Return settings of a family; an unknown name raises a TypeError that lists the known ones."""
        known = [field.name for field in fields(cls)][1:]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise TypeError(f"unknown setting {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(family, **settings)

    def fingerprint(self, texts: Sequence[str], versions: dict[str, str]) -> str:
        """Return 16 hexadecimal digits that change with any setting, text (or their order), or library version."""
        digest = hashlib.sha256(json.dumps([BUILD, asdict(self), versions], sort_keys=True).encode())
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()[:16]
