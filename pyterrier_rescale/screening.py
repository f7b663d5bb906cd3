"""Exact screening: a product in bfloat16 with a rigorous error bound says which (text, term) pairs can be open.

With t^ and w^ the bfloat16 roundings of t and w, and every quantity on the right known exactly or bounded,

    |t . w - t^ . w^| <= |t - t^| |w| + |t^| |w - w^|        (Cauchy-Schwarz)

plus the rounding of the accumulation and of the result. Only pairs whose upper bound is above zero are computed in full
precision; all others are zero for certain. On CPUs with matrix units for bfloat16 (AMX) such a product takes a sixth
of the time of one in float32, and with AVX-512 instructions for it (no AMX) less than half; its maxima, of two bytes,
are cheaper, too. So a sparse head costs little more than that.
"""

from __future__ import annotations

import functools
import time

import torch

from .blocks import logit_blocks, text_groups

#: The smallest number of rows for which rounding W anew is worth its time.
FEW_ROWS = 512
# A pair that may be open costs about two and a half times a pair of the full product (gather and product).
MAX_CANDIDATES = 0.25
_ROUNDING = 2.0**-8  # of a bfloat16 number, relative
# How many times faster the product must be; at twice as fast the whole head was 2.4 times as fast.
_WORTH = 1.5
# Rows of the square products that are timed, and how often: some 50 ms on two cores.
_PROBED, _PROBES = 512, 15
_ROWS = 4096  # of a block: of two bytes, twice as many fit the cache
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

    def closed(self, rows: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Which terms are zero for certain: max_i w_v . t_i + b_v <= 0.

        Args:
            rows: t, shape (T, H), float32.
            lengths: rows of each text, shape (B,).
            bias: b, shape (V,), or ``None``.

        Returns:
            bool (B, V); never true where a row, W or b holds what is not finite, always for texts without rows.
        """
        half = rows.to(torch.bfloat16)
        sizes = half.float()
        errors = (rows - sizes).norm(dim=1)
        sizes = sizes.norm(dim=1)
        closed = torch.ones(len(lengths), len(self.half), dtype=torch.bool, device=rows.device)
        groups = text_groups(lengths, _ROWS)
        limit = all_positive = current = None
        for group, terms, logits, _ in logit_blocks(half, self.half, groups):
            if group is not current:
                current = group
                limit = self._limits(errors[group.index].amax(), sizes[group.index].amax(), bias)
                all_positive = bool((limit > 0).all())
            best = _amax(logits, all_positive)
            closed[group.texts, terms] = best <= limit[terms]
        return closed

    def _limits(self, error: torch.Tensor, size: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What a rounded product may reach at most with the term closed for certain, (V,)."""
        limits = -(self.norms * error + self.residuals * size)
        if bias is not None:
            limits -= bias
        # a result of |x| stands for up to |x| (1 + 2^-8); the margin is for the arithmetic of this function
        limits = torch.where(limits > 0, limits / (1 + _ROUNDING), limits / (1 - _ROUNDING))
        return limits - 1e-6 * limits.abs()


def _amax(values: torch.Tensor, positive_counts: bool = False) -> torch.Tensor:
    """Maximum over dimension 1 of a bfloat16 tensor without NaN, read as integers: a third of the time of ``amax``.

    The bits of numbers with a clear sign bit are ordered as integers, those of negative ones the other way round. With
    ``positive_counts`` a maximum below zero may come out as any number below zero.
    """
    bits = values.view(torch.int16)
    largest = bits.amax(dim=1)
    if not positive_counts:
        largest = torch.where(largest >= 0, largest, bits.amin(dim=1))
    return largest.view(torch.bfloat16)


def make_screen(weight: torch.Tensor) -> Screen | None:
    """A screen where it pays: float32 on a CPU whose products are much faster in bfloat16; else ``None``."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _half_is_fast(weight.shape[1]):
        return None
    return Screen(weight)


@functools.cache
def _half_is_fast(width: int) -> bool:
    """Time both products once per width: whether a CPU has units for bfloat16 cannot be told portably."""
    best: dict[torch.dtype, float] = {}
    with torch.inference_mode():
        products = {
            dtype: (torch.ones(_PROBED, width, dtype=dtype), torch.empty(_PROBED, _PROBED, dtype=dtype))
            for dtype in (torch.float32, torch.bfloat16)
        }
        for _ in range(_PROBES):  # in turns, so that what else the machine does hits both
            for dtype, (factor, out) in products.items():
                start = time.perf_counter()
                torch.mm(factor, factor.t(), out=out)
                best[dtype] = min(best.get(dtype, float("inf")), time.perf_counter() - start)
    return _WORTH * best[torch.bfloat16] < best[torch.float32]
