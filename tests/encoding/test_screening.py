"""Screening never changes a result: its bounds hold, and the head gives the same with and without it."""

from __future__ import annotations

import itertools
import math
import os
import platform
import subprocess
import sys

import pytest
import torch

from pyterrier_rescale.encoding import blocks, kernel, screening
from pyterrier_rescale.encoding.blocks import few_sizes, text_groups
from pyterrier_rescale.encoding.kernel import sparse_head
from pyterrier_rescale.encoding.screening import BFloat16, Int8, Screen, _amax, _exact, make_screen

LENGTHS = torch.tensor([40, 3, 0, 25, 1, 31])
FORMATS = [BFloat16, Int8]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """The bounds hold where products do; on CPUs whose int8 products saturate, exact ones stand in."""
    if not _exact(Int8, 96):

        def multiply(rows, columns, out, given=blocks.multiply):
            if rows.dtype == torch.int8:
                return out.copy_(rows.double() @ columns.double())
            return given(rows, columns, out)

        monkeypatch.setattr(blocks, "multiply", multiply)


def head(seed=0, scale=1.0, vocab=3000, width=96, spread=0.0):
    """t (B, L, H), W, b and mask; ``spread`` widens the range of magnitudes within rows."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(LENGTHS), int(LENGTHS.max()), width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * scale
    for part in (hidden, weight):
        part *= torch.exp(spread * torch.randn(part.shape, generator=generator))
    mask = torch.arange(hidden.shape[1]) < LENGTHS[:, None]
    bias = torch.full((vocab,), -3.2 * scale * math.sqrt(width))  # few terms fire
    return hidden, weight, bias, mask


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("common", [0.0, 30.0])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.3])
def test_no_open_term_counts_as_closed(seed, scale, spread, shift, common, number_format):
    """Biases that put the threshold well above, at, and below zero; t with dimensions that stand out in all rows."""
    hidden, weight, bias, mask = head(seed, scale, spread=spread)
    hidden[..., :3] += common
    rows = hidden[mask]
    bias = bias * -shift - weight[:, :3].sum(dim=1) * common
    screen = Screen(weight, [number_format])
    screen.closed(rows[:9], torch.tensor([9]), None)  # any centre will do
    closed = screen.closed(rows, LENGTHS, bias)
    truth = torch.full(closed.shape, -math.inf, dtype=torch.float64)
    for text, part in enumerate(rows.double().split(LENGTHS.tolist())):
        if len(part):
            truth[text] = (part @ weight.double().T).amax(dim=0) + bias.double()
    assert not closed[truth > 0].any()
    assert closed[LENGTHS == 0].all()
    # ... and of use: what stays open is open, or within a few hundredths of |d| |w| of it
    size = (rows - rows.mean(dim=0)).norm(dim=1).max() * weight.norm(dim=1).max()
    widest = 1 if number_format is BFloat16 else 5 if spread else 2
    assert truth[~closed].min() > -0.05 * widest * size


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_head_is_the_same_with_and_without(with_bias, number_format):
    hidden, weight, bias, mask = head()
    if not with_bias:  # a column that is constant in t stands in for the bias, so that few terms fire
        hidden, weight = torch.cat([hidden, torch.ones(*mask.shape, 1)], 2), torch.cat([weight, bias[:, None]], 1)
        bias = None
    leaves = [hidden.requires_grad_(), weight.requires_grad_()] + ([bias.requires_grad_()] if with_bias else [])
    screened = sparse_head(hidden, weight, bias, mask, screen=Screen(weight, [number_format]))
    logits = hidden @ weight.T + (bias if with_bias else 0)
    plain = (torch.log1p(torch.relu(logits)) * mask[..., None]).amax(dim=1)
    assert 0 < plain.count_nonzero() < screening.MAX_CANDIDATES * plain.numel() / 2
    torch.testing.assert_close(screened, plain, atol=5e-5, rtol=1e-5)  # logits of some 40, float32
    assert not screened[2].any()
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9))
    for got, expected in zip(
        torch.autograd.grad(screened, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_dense_head_takes_the_full_product(monkeypatch):
    hidden, weight, bias, mask = head()
    called = []
    monkeypatch.setattr(kernel, "_fill", lambda *args: called.append(args))
    got = sparse_head(hidden, weight, bias + 100, mask, screen=Screen(weight))
    assert not called
    plain = torch.log1p(torch.relu(hidden @ weight.T + bias + 100)) * mask[..., None]
    torch.testing.assert_close(got, plain.amax(dim=1), atol=1e-5, rtol=1e-5)


def test_what_screens_in_vain_is_screened_ever_less(monkeypatch):
    hidden, weight, bias, mask = head()
    dense, sparse = bias + 100, bias
    screen, calls = Screen(weight), []
    whole = screen.closed
    monkeypatch.setattr(screen, "closed", lambda *args: calls.append(len(seen)) or whole(*args))
    seen = []
    for level in [*[dense] * 60, *[sparse] * 16, dense, dense, dense]:
        got = sparse_head(hidden, weight, level, mask, screen=screen)
        seen.append(got)
        plain = torch.log1p(torch.relu(hidden @ weight.T + level)) * mask[..., None]
        torch.testing.assert_close(got, plain.amax(dim=1), atol=5e-5, rtol=1e-5)
    rests = [after - before - 1 for before, after in itertools.pairwise(calls)]
    assert rests[:6] == [1, 2, 4, 8, 16, 16]
    first = next(call for call in calls if call >= 60)
    assert calls[calls.index(first) :] == [*range(first, 77), 78]  # the first that pays ends the rests


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_shows(poison, number_format):
    hidden, weight, bias, mask = head()
    hidden[0, 2, 5] = poison
    screen = Screen(weight, [number_format])
    got = sparse_head(hidden, weight, bias, mask, screen=screen)
    expected = sparse_head(hidden.double(), weight.double(), bias.double(), mask)
    assert not got[0].isfinite().all()
    torch.testing.assert_close(got[1:], expected[1:].float(), atol=5e-5, rtol=1e-5)
    assert screen.centre.isfinite().all()  # what comes after is not spoilt
    weight[7, 3], bias[8], bias[9] = poison, poison, -math.inf
    closed = Screen(weight, [number_format]).closed(hidden[mask][-31:], torch.tensor([31]), bias)
    assert not closed[0, [7, 8]].any() and closed[0, 9]


def test_errors_too_large_for_a_format_bring_the_next():
    hidden, weight, bias, mask = head()
    weight[:, 0] *= 300  # int8 has nothing left for the others
    hidden[..., 0] /= 300
    screen = Screen(weight, [Int8, BFloat16])
    expected = sparse_head(hidden, weight, bias, mask)
    for used in (Int8, BFloat16, BFloat16):
        assert screen.format is used
        got = sparse_head(hidden, weight, bias, mask, screen=screen)
        torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-5)


def test_half_precision_and_devices_without_it_have_no_screen(monkeypatch):
    weight = torch.randn(10, 4)
    assert make_screen(weight.bfloat16()) is None
    monkeypatch.setattr("pyterrier_rescale.encoding.screening._fast_formats", lambda width: ())
    assert make_screen(weight) is None
    monkeypatch.setattr("pyterrier_rescale.encoding.screening._fast_formats", lambda width: (Int8, BFloat16))
    assert make_screen(weight).format is Int8


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({torch.bfloat16: 0.5, torch.int8: 0.25}, (Int8, BFloat16)),
        ({torch.bfloat16: 0.17, torch.int8: 0.16}, (BFloat16,)),  # its smaller errors are worth more
        ({torch.bfloat16: 2.0, torch.int8: 0.25}, (Int8,)),
        ({torch.bfloat16: 0.9, torch.int8: 50.0}, ()),
        ({torch.bfloat16: 0.5, torch.int8: None}, (BFloat16,)),
    ],
)
def test_the_format_is_what_this_cpu_multiplies_fastest(monkeypatch, seconds, expected):
    clock = [0.0]

    def product(rows, columns, out):
        clock[0] += {torch.float32: 1.0, **seconds}[rows.dtype]

    monkeypatch.setattr(screening, "multiply", product)
    monkeypatch.setattr(screening, "_exact", lambda number_format, width: seconds[number_format.dtype] is not None)
    monkeypatch.setattr(screening.time, "perf_counter", lambda: clock[0])
    assert screening._fast_formats.__wrapped__(64) == expected


def saturating(rows, columns, apart, shifted):
    """As without VNNI: one factor + 128 as unsigned, sums of two products in 16 bits, the shift taken out again."""
    a, b = rows.int(), columns.t().int()
    if shifted == "columns":
        return saturating(columns.t(), rows.t(), apart, "rows").t()
    products = (a[:, None] + 128) * b[None]
    wide = torch.nn.functional.pad(products, (0, -products.shape[2] % (2 * apart))).unflatten(2, (-1, 2, apart))
    return wide.sum(dim=3).clamp(-(2**15), 2**15 - 1).sum(dim=(2, 3)) - 128 * b.sum(dim=1)


FAULTS = {
    "16 bits": lambda a, b: saturating(a, b, 1, "rows"),
    "16 bits, the other factor shifted": lambda a, b: saturating(a, b, 1, "columns"),
    "16 bits, terms four apart": lambda a, b: saturating(a, b, 4, "rows"),
    "7 bits": lambda a, b: a.int().clamp(-64, 63) @ b.int(),
    "the last term left out": lambda a, b: a[:, :-1].int() @ b[:-1].int(),
    "only few rows": lambda a, b: a.int() @ b.int() - (len(a) == 1),
    "sums in bfloat16": lambda a, b: sum(part[:, None] * b[k] for k, part in enumerate(a.t())),
    "halves rounded": lambda a, b: a[:, :48] @ b[:48] + a[:, 48:] @ b[48:],
    "no such product": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_format_whose_products_are_others_is_not_used(fault, monkeypatch):
    number_format = BFloat16 if fault in ("sums in bfloat16", "halves rounded") else Int8

    def multiply(rows, columns, out):
        if FAULTS[fault] is None:
            raise RuntimeError("not implemented")
        out.copy_(FAULTS[fault](rows, columns))

    state = torch.get_rng_state()
    assert _exact(BFloat16, 96)
    monkeypatch.setattr(screening, "multiply", multiply)
    assert not _exact(number_format, 96)
    monkeypatch.setattr(screening, "multiply", lambda a, b, out: out.copy_(a.double() @ b.double()))
    assert _exact(number_format, 96)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 instructions")
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_a_head_that_lines_up_on_older_cpus(instructions):
    """Rows and W of the largest values with equal signs, whose sums saturate 16 bits."""
    code = """if True:
        import torch
        from pyterrier_rescale.encoding import screening
        from pyterrier_rescale.encoding.kernel import sparse_head
        screening._WORTH = 0  # whatever it takes
        signs = 1 - 2.0 * (torch.arange(128)[:, None] // 8 % 2)
        weight = torch.ones(128, 96) * torch.linspace(0.2, 1, 128)[:, None] * signs
        hidden = torch.cat([torch.ones(1, 600, 96), -torch.ones(1, 600, 96)])
        mask = torch.ones(2, 600)
        bias = torch.full((128,), -28.0)
        formats = screening._fast_formats(96)
        assert screening.BFloat16 in formats
        for used in (formats, *([f] for f in formats)):
            got = sparse_head(hidden, weight, bias, mask, screen=screening.Screen(weight, used))
            truth = torch.log1p(torch.relu(hidden[:, 0].double() @ weight.double().T + bias.double())).float()
            assert 0 < truth.count_nonzero() < truth.numel() / 2
            torch.testing.assert_close(got, truth, atol=5e-5, rtol=1e-5)  # logits of some 100, float32
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number_format", FORMATS)
def test_numbers_below_the_smallest_normal_one(number_format):
    """Instructions for bfloat16 take them as zero; terms open by so little stay open."""
    weight = torch.full((8, 16), 1e-39)
    rows = torch.ones(4, 16)
    rows[0] = 3
    assert not Screen(weight, [number_format]).closed(rows, torch.tensor([4]), None).any()


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_maximum_by_bits(shift):
    values = (torch.randn(7, 5, 300, generator=torch.Generator().manual_seed(3)) + shift).bfloat16()
    values[0, :, 0], values[1, :, 0] = -0.0, 0.0
    assert torch.equal(_amax(values), values.amax(dim=1))


def test_products_that_are_compiled_have_few_shapes(monkeypatch):
    """oneDNN compiles and caches a primitive for each shape: texts of any lengths share a few of them."""
    seen: dict[torch.dtype, set] = {torch.bfloat16: set(), torch.int8: set()}

    def multiply(rows, columns, out):
        seen[rows.dtype].add((len(rows), columns.shape[1]))
        out.copy_(rows.float() @ columns.float())

    monkeypatch.setattr(blocks, "multiply", multiply)
    weight = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    screens = Screen(weight, [BFloat16]), Screen(weight, [Int8])
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        lengths = torch.randint(1, 200, (int(torch.randint(1, 40, (1,), generator=generator)),), generator=generator)
        rows = torch.randn(int(lengths.sum()), 4, generator=generator)
        for screen in screens:
            assert screen.closed(rows, lengths, torch.full((600,), -1e3)).all()
    assert len(seen[torch.bfloat16]) <= 2 * 64 < len(seen[torch.int8])
    sizes = [few_sizes(size) for size in range(1, 4097)]
    assert len(set(sizes)) == 64 and sizes == sorted(sizes)
    assert all(size <= few < size + max(32, size / 15) for size, few in enumerate(sizes, 1))


def test_groups_pad_with_the_texts_own_rows():
    groups = text_groups(LENGTHS, limit=70)
    starts = LENGTHS.cumsum(0) - LENGTHS
    seen = []
    for group in groups:
        count, length = group.shape
        assert count * length <= 70
        for text, own, index in zip(group.texts, group.lengths, group.index.view(count, length), strict=True):
            seen.append(int(text))
            assert own == LENGTHS[text] and index.tolist() == [
                int(starts[text]) + min(i, int(own) - 1) for i in range(length)
            ]
    assert sorted(seen) == [0, 1, 3, 4, 5]
