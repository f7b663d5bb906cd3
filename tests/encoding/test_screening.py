"""Screening never changes a result: its bounds hold, and the head gives the same with and without it."""

from __future__ import annotations

import math

import pytest
import torch

from pyterrier_rescale.encoding import kernel, screening
from pyterrier_rescale.encoding.blocks import text_groups
from pyterrier_rescale.encoding.kernel import sparse_head
from pyterrier_rescale.encoding.screening import BFloat16, Int8, Screen, _amax, make_screen

LENGTHS = torch.tensor([40, 3, 0, 25, 1, 31])
FORMATS = [BFloat16, Int8]


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
    assert 0 < plain.count_nonzero() < kernel.MAX_CANDIDATES * plain.numel() / 2
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
        took = {torch.float32: 1.0, **seconds}[rows.dtype]
        if took is None:
            raise RuntimeError("not implemented")
        clock[0] += took

    monkeypatch.setattr(screening, "multiply", product)
    monkeypatch.setattr(screening.time, "perf_counter", lambda: clock[0])
    assert screening._fast_formats.__wrapped__(64) == expected


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_maximum_by_bits(shift):
    values = (torch.randn(7, 5, 300, generator=torch.Generator().manual_seed(3)) + shift).bfloat16()
    values[0, :, 0], values[1, :, 0] = -0.0, 0.0
    assert torch.equal(_amax(values), values.amax(dim=1))


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
