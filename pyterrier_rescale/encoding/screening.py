"""Exact screening: a product in a cheap number format with a rigorous error bound says which pairs can be open.

A pair of text and term is open if z_iv = w_v . t_i + b_v > 0 at one of the text's positions. With any fixed m, here the
mean of the first rows seen, d = t - m, and d^, w^ the roundings of d and w,

    z = (m . w + b) + d . w        and        |d . w - d^ . w^| <= |d - d^| |w| + |d^| |w - w^|        (Cauchy-Schwarz)

with every quantity on the right known, plus the rounding of what is computed in float32. Only pairs whose upper bound
is above zero are computed in full precision; all others are zero for certain. m takes out what all positions share,
outlying dimensions of a trained model first of all, and so makes the errors smaller.

Two formats, the one that the CPU at hand multiplies faster: bfloat16 (matrix units, AMX, multiply it six times as fast
as float32, AVX-512 instructions twice) and int8 (AVX-512 VNNI: four times; its errors are seven times larger). Neither
is taken on trust: without VNNI, sums of two products of int8 saturate at 16 bits. A format is used only where products
at its extremes came out as the bound assumes (:func:`_exact`), and faster than in float32.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence

import torch

from .blocks import logit_blocks, multiply, text_groups

#: The smallest number of rows for which rounding W anew is worth its time.
FEW_ROWS = 512
# A pair that may be open costs about two and a half times a pair of the full product (gather and product).
MAX_CANDIDATES = 0.25
# Batches that go without a screen after one that was in vain; twice as many after the next, up to the most.
_REST, _LONGEST_REST = 1, 16
# Share of pairs that may be open from which the next format, with its smaller errors, is cheaper.
_LOOSE = 0.2
# How many times faster than in float32 the product must be; at twice as fast the whole head was 2.4 times as fast.
_WORTH = 1.5
# What the more numerous candidates of int8 cost, as a share of the product in float32.
_INT8_EXTRA = 0.05
# Rows of the square products that are timed, and how often: some 50 ms on two cores.
_PROBED, _PROBES = 512, 15
# Rows of the products that are proved.
_PROVED = 96
_SLICE = 4096  # rows of W that are rounded at a time
_UNIT = 2.0**-24  # the rounding of float32, relative
_TINY = torch.finfo(torch.float32).tiny


class BFloat16:
    """bfloat16: floating point, eight bits."""

    #: Of factors, and of their products.
    dtype = product = torch.bfloat16
    #: Of a product, relative.
    rounding = 2.0**-8
    #: Of a block: of two bytes, twice as many fit the cache.
    rows = 4096
    #: A value with all bits of its fraction set.
    extreme = 255 / 128
    #: oneDNN compiles a primitive for each shape, which takes as long as ten products, and keeps the last 1,024 of all
    #: that the process uses: of few shapes, none is compiled twice or evicted on our account.
    few_shapes = True

    @staticmethod
    def rounded(values: torch.Tensor, *, together: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (n, H) in this format, what they stand for in float32, and the unit of each, (n,) or () ``together``."""
        rounded = values.to(torch.bfloat16)
        return rounded, rounded.float(), values.new_ones(() if together else len(values))

    @staticmethod
    def largest(products: torch.Tensor) -> torch.Tensor:
        """Maximum over dimension 1 of a block (n, L, C): float32 (n, C)."""
        return _amax(products).float()


class Int8:
    """int8 from -127 to 127 of a unit; products are exact, where :func:`_exact` says so."""

    dtype, product = torch.int8, torch.int32
    rounding = _UNIT  # read as float32
    rows = None  # the default
    extreme = 127
    few_shapes = False  # gemm_s8s8s32, which has no primitives

    @staticmethod
    def rounded(values: torch.Tensor, *, together: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As :meth:`BFloat16.rounded`."""
        sizes = values.abs()
        largest = sizes.amax() if together else sizes.amax(dim=1)
        unit = (largest / 127).clamp_min_(_TINY)  # zeros alone may have any
        column = unit[..., None]
        back = torch.div(values, column, out=sizes).round_()
        return back.to(torch.int8), back.mul_(column), unit

    @staticmethod
    def largest(products: torch.Tensor) -> torch.Tensor:
        """As :meth:`BFloat16.largest`."""
        return products.amax(dim=1).float()


Format = type[BFloat16] | type[Int8]


class Screen:
    """A decoder's W in a cheap format, with what bounds the error of products with it.

    Args:
        weight: W, shape (V, H), float32. Changed afterwards, it needs a new screen.
        formats: the first is used; where its errors leave too many pairs undecided, the next from then on.
    """

    def __init__(self, weight: torch.Tensor, formats: Sequence[Format] = (BFloat16,)) -> None:
        self.weight = weight.detach()
        self.centre: torch.Tensor | None = None
        self.formats = list(formats)
        self._rest, self._resting = _REST, 0
        self._round_weight()

    @property
    def format(self) -> Format:
        """What is in use."""
        return self.formats[0]

    def _round_weight(self) -> None:
        weight = self.weight
        size = len(weight)
        with torch.no_grad():
            self.rounded = torch.empty(weight.shape, dtype=self.format.dtype, device=weight.device)
            self.units, self.norms, self.residuals = (torch.empty(size, device=weight.device) for _ in range(3))
            for begin in range(0, size, _SLICE):
                part = slice(begin, begin + _SLICE)
                self.rounded[part], back, self.units[part] = self.format.rounded(weight[part], together=False)
                self.norms[part] = weight[part].norm(dim=1)
                self.residuals[part] = (weight[part] - back).norm(dim=1)

    def _centre_on(self, rows: torch.Tensor) -> None:
        with torch.no_grad():
            self.centre = rows.mean(dim=0).nan_to_num_(0, 0, 0)
            self.offsets = self.weight @ self.centre

    def candidates(self, rows: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """Pairs that may be open, bool (B, V); ``None`` where the full product is cheaper than theirs.

        A head with dense vectors (raw, or divided by k and not trained) is screened in vain, which costs a sixth of
        encoding; so after such a batch some are not screened at all. Arguments as of :meth:`closed`.
        """
        if self._resting:
            self._resting -= 1
            return None
        used = self.format
        closed = self.closed(rows, lengths, bias)
        if closed.count_nonzero() >= (1 - MAX_CANDIDATES) * closed.numel():
            self._rest = _REST
            return closed.logical_not_()
        if self.format is not used:  # the next one has not been tried yet
            return None
        self._resting, self._rest = self._rest, min(2 * self._rest, _LONGEST_REST)
        return None

    def closed(self, rows: torch.Tensor, lengths: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Which terms are zero for certain: max_i w_v . t_i + b_v <= 0.

        Args:
            rows: t, shape (T, H), float32.
            lengths: rows of each text, shape (B,).
            bias: b, shape (V,), or ``None``.

        Returns:
            bool (B, V); never true where a row or W holds what is not finite, always for texts without rows.
        """
        closed = torch.ones(len(lengths), len(self.rounded), dtype=torch.bool, device=rows.device)
        if not len(rows):
            return closed
        if self.centre is None:
            self._centre_on(rows)
        parts = rows - self.centre
        rounded, back, unit = self.format.rounded(parts, together=True)
        limit = self._limits(parts, back, bias) / (unit.double() * self.units.double())
        # a result of |x| stands for up to |x| (1 + rounding); the limit itself is rounded to float32, too
        wide = self.format.rounding + 4 * _UNIT
        limit = torch.where(limit > 0, limit / (1 + wide), limit / (1 - wide)).float()
        groups = text_groups(lengths, self.format.rows)
        blocks = logit_blocks(rounded, self.rounded, groups, self.format.product, few_shapes=self.format.few_shapes)
        for group, terms, products, _ in blocks:
            closed[group.texts, terms] = self.format.largest(products) <= limit[terms]
        if len(self.formats) > 1 and closed.count_nonzero() < (1 - _LOOSE) * closed.numel():
            del self.formats[0]
            self._round_weight()
        return closed

    def _limits(self, parts: torch.Tensor, back: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What max_i d^_i . w^_v may reach at most with term v closed for certain, float64 (V,)."""
        norms, residuals = self.norms.double(), self.residuals.double()
        limits = -self.offsets.double()
        if bias is not None:
            limits -= bias.double()
        error = (parts - back).norm(dim=1).amax().double()
        size = back.norm(dim=1).amax().double()
        units = _summing(parts.shape[1])  # of |d^| |w^| and |m| |w|
        slack = units * (norms + residuals) * (size + error + self.centre.norm().double())
        # instructions for bfloat16 take what is below the smallest normal number, in or out, as zero
        slack += parts.shape[1] * _TINY * (1 + norms + size)
        return limits - (norms * error + residuals * size + slack)


def _summing(width: int) -> float:
    """Error of a sum of H products in float32, in |a| |b|: H units in the last place.

    Twice, for machines that round each product, and some more for norms and differences.
    """
    return (2 * width + 16) * _UNIT


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
    """A screen where it pays: float32 on a CPU whose products are much faster in another format; else ``None``."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    formats = _fast_formats(weight.shape[1])
    return Screen(weight, formats) if formats else None


def _exact(number_format: Format, width: int) -> bool:
    """Whether products of H = ``width`` terms are what the bound assumes, at extremes of the format.

    Factors of +-127, or of the bfloat16 with most bits, in patterns of signs with the largest partial sums: all alike,
    and alternating by 1, 2, 4, ... terms, and in halves; each with each and with its opposite; and signs at random.
    Of int8 the integers must be right, of bfloat16 the error no more than float32's sum and one rounding.
    """
    place = torch.arange(width)
    periods = [2**power for power in range(width.bit_length() + 1)] + [-(-width // 2)]
    signs = torch.stack([1 - 2 * (place // period % 2) for period in periods])
    generator = torch.Generator().manual_seed(width)  # the caller's random numbers stay as they are
    random = torch.randint(2, (_PROVED - 2 * len(signs), width), generator=generator) * 2 - 1
    factor = torch.cat([signs, -signs, random]).double() * number_format.extreme
    for count in (_PROVED, 1, 5):  # few rows may have a kernel of their own
        rows = factor[:count]
        out = torch.empty(count, _PROVED, dtype=number_format.product)
        try:
            multiply(rows.to(number_format.dtype), factor.to(number_format.dtype).t(), out)
        except (RuntimeError, AttributeError):  # this build of torch has no product of int8
            return False
        exact = rows @ factor.t()
        allowed = torch.zeros_like(exact)
        if number_format.dtype.is_floating_point:
            allowed = number_format.rounding * exact.abs() + _summing(width) * width * number_format.extreme**2
        if not ((out.double() - exact).abs() <= allowed).all():
            return False
    return True


@functools.cache
def _fast_formats(width: int) -> tuple[Format, ...]:
    """Prove and time the products, once per width: what a CPU does cannot be told portably. The best format first."""
    best: dict[Format | None, float] = {}
    with torch.inference_mode():
        products = {}
        for number_format in (None, *(f for f in (BFloat16, Int8) if _exact(f, width))):
            dtype = number_format.dtype if number_format else torch.float32
            factor = torch.ones(_PROBED, width, dtype=dtype)
            out = torch.empty(_PROBED, _PROBED, dtype=number_format.product if number_format else dtype)
            products[number_format] = factor, out
        for _ in range(_PROBES):  # in turns, so that what else the machine does hits all
            for number_format, (factor, out) in list(products.items()):
                start = time.perf_counter()
                multiply(factor, factor.t(), out)
                best[number_format] = min(best.get(number_format, math.inf), time.perf_counter() - start)
                if number_format and best[number_format] > 20 * best[None]:
                    del products[number_format]  # without instructions for it a product takes seconds
    plain = best.pop(None)
    best = {f: seconds + _INT8_EXTRA * plain * (f is Int8) for f, seconds in best.items() if _WORTH * seconds < plain}
    ranked = sorted(best, key=best.__getitem__)
    # after bfloat16 nothing has smaller errors
    return tuple(ranked[: ranked.index(BFloat16) + 1] if BFloat16 in ranked else ranked)
