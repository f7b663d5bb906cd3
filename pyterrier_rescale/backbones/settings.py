"""What determines a small backbone: its family, its sizes, and how it is pretrained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .._utils.checks import check_integer, check_number, check_share

_set = object.__setattr__  # in frozen classes: numpy's numbers become Python's

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
        _check_ints(self, least)
        if self.hidden % 32:
            raise ValueError(f"hidden must be a multiple of 32, got {self.hidden}")
        _check_masking(self)
        _set(self, "learning_rate", check_number("learning_rate", self.learning_rate))

    @classmethod
    def make(cls, family: str, settings: dict[str, Any]) -> BackboneSettings:
        """Return settings of a family; an unknown name raises a TypeError that lists the known ones."""
        _check_names(cls, settings, ("family",))
        return cls(family, **settings)

    def fingerprint(self, texts: Sequence[str], versions: dict[str, str]) -> str:
        """Return 16 hexadecimal digits that change with any setting, text (or their order), or library version."""
        return _digest([BUILD, asdict(self), versions], texts)


@dataclass(frozen=True)
class HeadSettings:
    """How the head of an encoder that had none is pretrained, and its body with it.

    Attributes:
        seed: of order of texts and masking.
        frozen_steps: steps of the head's transform and bias alone, the body (and with it the tied W) as it is.
        joint_steps: steps of everything after that.
        frozen_learning_rate: peak of the first stage.
        head_learning_rate: of the head's transform and bias in the second stage.
        body_learning_rate: of the body in the second stage.
        batch_size: windows of text per step.
        max_length: tokens per window, [CLS] and [SEP] included.
        warmup: share of each stage's steps; then the rates fall linearly to zero.
        chosen: share of the tokens to predict.
        masked: share of the chosen tokens replaced by [MASK].
        random: share of the chosen tokens replaced by a random token; the rest stays as it is.
    """

    seed: int = 0
    frozen_steps: int = 200
    joint_steps: int = 400
    frozen_learning_rate: float = 2e-3
    head_learning_rate: float = 1e-3
    body_learning_rate: float = 3e-4
    batch_size: int = 24
    max_length: int = 96
    warmup: float = 0.1
    chosen: float = 0.3
    masked: float = 0.7
    random: float = 0.05

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: if one is out of range.
        """
        _check_ints(self, {"frozen_steps": 0, "joint_steps": 0, "batch_size": 1, "max_length": 8, "seed": 0})
        if self.steps < 1:
            raise ValueError("frozen_steps + joint_steps must be at least 1, got 0")
        _check_masking(self)
        for name in ("frozen_learning_rate", "head_learning_rate", "body_learning_rate"):
            _set(self, name, check_number(name, getattr(self, name)))

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.frozen_steps + self.joint_steps

    @classmethod
    def make(cls, settings: dict[str, Any]) -> HeadSettings:
        """Return settings; an unknown name raises a TypeError that lists the known ones."""
        _check_names(cls, settings)
        return cls(**settings)

    def fingerprint(self, model: str, texts: Sequence[str], versions: dict[str, str]) -> str:
        """Sixteen hexadecimal digits that change with setting, model (its fingerprint), text, or library version."""
        return _digest([BUILD, "head", model, asdict(self), versions], texts)


def _check_ints(settings: Any, least: dict[str, int]) -> None:
    for name, low in least.items():
        _set(settings, name, check_integer(name, getattr(settings, name), low))
    if settings.max_length > 512:
        raise ValueError(f"max_length must be at most 512, the number of positions, got {settings.max_length}")


def _check_masking(settings: Any) -> None:
    for name in ("warmup", "chosen", "masked", "random"):
        _set(settings, name, check_share(name, getattr(settings, name)))
    if settings.chosen == 0:
        raise ValueError("chosen must be above 0: there would be nothing to predict")
    if settings.masked + settings.random > 1:
        raise ValueError(f"masked + random must be at most 1, got {settings.masked + settings.random:g}")


def _check_names(cls: type, settings: dict[str, Any], positional: tuple[str, ...] = ()) -> None:
    known = [field.name for field in fields(cls) if field.name not in positional]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise TypeError(f"unknown setting {', '.join(unknown)}; known: {', '.join(known)}")


def _digest(plain: Any, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]
