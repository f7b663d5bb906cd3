"""Exact screening: a product in bfloat16 with a rigorous error bound says which (text, term) pairs can be open.

With t^ and w^ the bfloat16 roundings of t and w, and every quantity on the right known exactly or bounded,

    |t . w - t^ . w^| <= |t - t^| |w| + |t^| |w - w^|        (Cauchy-Schwarz)

plus the rounding of the accumulation and of the result. Only pairs whose upper bound is above zero are computed in full
precision; all others are zero for certain. On CPUs with matrix units for bfloat16 (AMX) such a product takes a sixth
of the time of one in float32, so a sparse head costs little more than that.
"""

from __future__ import annotations

import functools
import math
import time

import torch

from .blocks import TextGroup, logit_blocks

#: The smallest number of rows for which rounding W anew is worth its time.
FEW_ROWS = 512
# A pair that may be open costs about two and a half times a pair of the full product (gather and product).
MAX_CANDIDATES = 0.25
_ROUNDING = 2.0**-8  # of a bfloat16 number, relative
_SLICE = 4096  # rows of W that are rounded at a time


class Screen:
    """A decoder's W in bfloat16, with what bounds the error of products with it.

    Args:
        weight: W, shape (V, H), float32.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        size, width = weight.shape
        with torch.no_grad():
            self.half = torch.empty(size, width, dtype=torch.bfloat16, device=weight.device)
            self.norms = torch.empty(size, device=weight.device)
            self.residuals = torch.empty(size, device=weight.device)
            for begin in range(0, size, _SLICE):
                part = slice(begin, begin + _SLICE)
                self.half[part] = weight[part]
                self.norms[part] = weight[part].norm(dim=1)
                self.residuals[part] = (weight[part] - self.half[part]).norm(dim=1)
            # Accumulating H products in float32 errs by at most H units in the last place of |t^| |w^|; twice, for
            # units that round products, too.
            self.residuals += 2 * width * 2.0**-24 * (self.norms + self.residuals)

    def upper_bounds(self, rows: torch.Tensor, groups: list[TextGroup], texts: int) -> torch.Tensor:
        """A number that max_i w_v . t_i does not exceed, for every text and term.

        Args:
            rows: t, shape (T, H), float32.
            groups: of the T rows.
            texts: B.

        Returns:
            float32 (B, V); -inf for texts without rows, NaN where a row holds a NaN.
        """
        half = rows.to(torch.bfloat16)
        sizes = half.float()
        errors = (rows - sizes).norm(dim=1)
        sizes = sizes.norm(dim=1)
        bounds = rows.new_full((texts, len(self.half)), -math.inf)
        largest: list[torch.Tensor] = []  # (n, V) of each group
        for group, terms, logits, _ in logit_blocks(half, self.half, groups):
            if terms.start == 0:
                largest.append(half.new_empty(len(group.texts), len(self.half)))
            largest[-1][:, terms] = _amax(logits)
        for group, best in zip(groups, largest, strict=True):
            best = best.float()
            bounds[group.texts] = best.addcmul_(best.abs(), best.new_tensor(_ROUNDING))
            error = errors[group.index].view(group.shape).amax(dim=1)
            size = sizes[group.index].view(group.shape).amax(dim=1)
            for text, by_norm, by_residual in zip(
                group.texts.tolist(), error.tolist(), size.tolist(), strict=True
            ):
                bounds[text].add_(self.norms, alpha=by_norm).add_(self.residuals, alpha=by_residual)
        return bounds


def _amax(values: torch.Tensor) -> torch.Tensor:
    """Maximum over dimension 1 of a bfloat16 tensor without NaN, read as integers: a third of the time of ``amax``.

    The bits of numbers with a clear sign bit are ordered as integers, those of negative ones the other way round.
    """
    bits = values.view(torch.int16)
    largest = bits.amax(dim=1)
    return torch.where(largest >= 0, largest, bits.amin(dim=1)).view(torch.bfloat16)


def make_screen(weight: torch.Tensor) -> Screen | None:
    """A screen where it pays: float32 on a CPU whose products are much faster in bfloat16; else ``None``."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _half_is_fast(weight.shape[1]):
        return None
    return Screen(weight)


@functools.cache
def _half_is_fast(width: int) -> bool:
    """Time both products once per width: whether a CPU has units for bfloat16 cannot be told portably."""

    def seconds(dtype: torch.dtype) -> float:
        left, right = (torch.ones(512, width, dtype=dtype) for _ in range(2))
        out = torch.empty(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(left, right.t(), out=out)
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        return 2.5 * seconds(torch.bfloat16) < seconds(torch.float32)
