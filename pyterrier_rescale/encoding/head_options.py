"""What lies between logits and weights beside the pooling, on both sides: which logits count, which terms are one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .._utils.checks import check_integer
from .folding import FOLDS


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of an encoder that no stock tool knows (those of SPARSEUP, Linkup 2026); nothing by default.

    Attributes:
        position_top_k: of each position only so many logits, the largest, take part in pooling.
        fold: ``"case"``: variants of a term in case and word start are one (:mod:`.folding`).

    Raises:
        ValueError: for values that cannot be.
    """

    position_top_k: int | None = None
    fold: str | None = None

    def __post_init__(self) -> None:
        """Check both."""
        top = check_integer("position_top_k", self.position_top_k, optional=True)
        object.__setattr__(self, "position_top_k", top)
        if self.fold is not None and self.fold not in FOLDS:
            raise ValueError(f"fold must be 'case' or None, got {self.fold!r}")

    def given(self) -> dict[str, Any]:
        """Those that are set, as plain values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
