"""How the regulariser's weight grows: in absolute steps, whatever the length of the run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

#: Shape of the growth from 0 to 1, by name: the power of (step / ramp_steps).
RAMPS = {"quadratic": 2, "linear": 1}

# Steps below which a ramp was seen to kill plain SPLADE (1 active term left) before it had learnt to rank.
_SENSIBLE = 50


@dataclass(frozen=True)
class Ramp:
    """Share of lambda in force: min(1, step / steps) ** power (SPLADE, arXiv:2107.05720, section 3: quadratic).

    Attributes:
        steps: optimizer steps until the full weight; 0 for the full weight from the start.
        shape: ``"quadratic"`` or ``"linear"``.
    """

    steps: int
    shape: str = "quadratic"

    def __call__(self, step: int) -> float:
        """The share in force at an optimizer step; the first step is 0."""
        if step >= self.steps:
            return 1.0
        return (step / self.steps) ** RAMPS[self.shape]

    def warn_if_short(self, lambda_q: float, lambda_d: float) -> None:
        """Warn where the regulariser would outrun the ranking loss."""
        if self.steps < _SENSIBLE and max(lambda_q, lambda_d) > 0:
            warnings.warn(
                f"ramp_steps={self.steps} brings the regulariser to its full weight before the encoder can rank; "
                f"below {_SENSIBLE} steps plain SPLADE was seen to collapse to one active term",
                stacklevel=3,
            )
