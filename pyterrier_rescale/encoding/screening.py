"""Exact screening: a product in bfloat16 with a rigorous error bound says which pairs can be open.

A pair of text and term is open if z_iv = w_v . t_i + b_v > 0 at one of the text's positions. With any fixed m, here the
mean of the first rows seen, d = t - m, and d^, w^ the roundings of d and w,

    z = (m . w + b) + d . w        and        |d . w - d^ . w^| <= |d - d^| |w| + |d^| |w - w^|        (Cauchy-Schwarz)

with every quantity on the right known, plus the rounding of what is computed in float32. Only pairs whose upper bound
is above zero are computed in full precision; all others are zero for certain. m takes out what all positions share,
outlying dimensions of a trained model first of all, and so makes the errors smaller.

CPUs with instructions for bfloat16 multiply it two to six times as fast as float32. Whether a CPU has them is asked
once; no timing decides, so that two runs on one machine compute the same.
"""

from __future__ import annotations

import torch

from .blocks import logit_blocks, text_groups

#: The smallest number of rows for which rounding W anew is worth its time.
FEW_ROWS = 512
# A pair that may be open costs about two and a half times a pair of the full product (gather and product).
MAX_CANDIDATES = 0.25
# Batches that go without a screen after one that was in vain.
_REST = 8
_ROWS = 4096  # of a block: of two bytes, twice as many fit the cache
_SLICE = 4096  # rows of W that are rounded at a time
_ROUNDING = 2.0**-8  # of bfloat16, relative
_UNIT = 2.0**-24  # of float32
_TINY = torch.finfo(torch.float32).tiny


class Screen:
    """A decoder's W (V, H) in bfloat16, with what bounds the error of products with it; a changed W needs a new one."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight.detach()
        self.centre: torch.Tensor | None = None
        self._resting = 0
        with torch.no_grad():
            self.rounded = self.weight.to(torch.bfloat16)
            self.norms, self.residuals = (self.weight.new_empty(len(weight)) for _ in range(2))
            for begin in range(0, len(weight), _SLICE):
                part = slice(begin, begin + _SLICE)
                self.norms[part] = self.weight[part].norm(dim=1)
                self.residuals[part] = (self.weight[part] - self.rounded[part].float()).norm(dim=1)

    def candidates(self, rows: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """Pairs that may be open, bool (B, V); ``None`` where the full product is cheaper than theirs.

        A head with dense vectors (raw, or divided by k and not trained) is screened in vain, which costs a sixth of
        encoding; so after such a batch some are not screened at all. Arguments as of :meth:`closed`.
        """
        if self._resting:
            self._resting -= 1
            return None
        closed = self.closed(rows, lengths, bias)
        if closed.count_nonzero() >= (1 - MAX_CANDIDATES) * closed.numel():
            return closed.logical_not_()
        self._resting = _REST
        return None

    def closed(self, rows: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Which terms are zero for certain, bool (B, V): max_i w_v . t_i + b_v <= 0.

        Never true where a row or W holds what is not finite, always for texts without rows. ``rows`` are t (T, H),
        float32, ``lengths`` (B,) the rows of each text.
        """
        closed = torch.ones(len(lengths), len(self.rounded), dtype=torch.bool, device=rows.device)
        if not len(rows):
            return closed
        if self.centre is None:
            with torch.no_grad():
                self.centre = rows.mean(dim=0).nan_to_num_(0, 0, 0)
                self.offsets = self.weight @ self.centre
        parts = rows - self.centre
        rounded = parts.to(torch.bfloat16)
        limit = self._limits(parts, rounded.float(), bias)
        # a result of |x| stands for up to |x| (1 + rounding); the limit itself is rounded to float32, too
        wide = _ROUNDING + 4 * _UNIT
        limit = torch.where(limit > 0, limit / (1 + wide), limit / (1 - wide)).float()
        # oneDNN compiles a product for each shape, which takes as long as ten products, and keeps the last 1,024
        blocks = logit_blocks(rounded, self.rounded, text_groups(lengths, _ROWS), few_shapes=True)
        for group, terms, products in blocks:
            closed[group.texts, terms] = _amax(products).float() <= limit[terms]
        return closed

    def _limits(self, parts: torch.Tensor, back: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What max_i d^_i . w^_v may reach at most with term v closed for certain, float64 (V,)."""
        norms, residuals = self.norms.double(), self.residuals.double()
        limits = -self.offsets.double()
        if bias is not None:
            limits -= bias.double()
        error = (parts - back).norm(dim=1).amax().double()
        size = back.norm(dim=1).amax().double()
        # a sum of H products in float32 errs by H units in the last place of |d^| |w| and |m| |w|; twice, for machines
        # that round each product, and some more for norms and differences
        summing = (2 * parts.shape[1] + 16) * _UNIT
        slack = summing * (norms + residuals) * (size + error + self.centre.norm().double())
        # instructions for bfloat16 take what is below the smallest normal number, in or out, as zero
        slack += parts.shape[1] * _TINY * (1 + norms + size)
        return limits - (norms * error + residuals * size + slack)


def _amax(values: torch.Tensor) -> torch.Tensor:
    """Maximum over dimension 1 of a bfloat16 tensor without NaN, read as integers: a third of the time of ``amax``.

    The bits of numbers with a clear sign bit are ordered as integers, those of negative ones the other way round.
    """
    bits = values.view(torch.int16)
    largest = bits.amax(dim=1)
    if not bool((largest >= 0).all()):
        largest = torch.where(largest >= 0, largest, bits.amin(dim=1))
    return largest.view(torch.bfloat16)


def make_screen(weight: torch.Tensor) -> Screen | None:
    """A screen where it pays: float32 on a CPU with instructions for bfloat16; else ``None``."""
    pays = weight.device.type == "cpu" and weight.dtype == torch.float32 and _multiplies_bfloat16()
    return Screen(weight) if pays else None


def _multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 (AVX-512 BF16, AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)
