"""Screening never changes a result: its bounds hold, and the head gives the same with and without it."""

from __future__ import annotations

import math

import pytest
import torch

from pyterrier_rescale import kernel
from pyterrier_rescale.blocks import text_groups
from pyterrier_rescale.kernel import sparse_head
from pyterrier_rescale.screening import Screen, _amax, make_screen

LENGTHS = torch.tensor([40, 3, 0, 25, 1, 31])


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.3])
def test_no_open_term_counts_as_closed(seed, scale, spread, shift):
    """Biases that put the threshold well above, at, and below zero."""
    hidden, weight, bias, mask = head(seed, scale, spread=spread)
    rows = hidden[mask]
    bias = bias * -shift
    closed = Screen(weight).closed(rows, LENGTHS, bias)
    truth = torch.full(closed.shape, -math.inf, dtype=torch.float64)
    for text, part in enumerate(rows.double().split(LENGTHS.tolist())):
        if len(part):
            truth[text] = (part @ weight.double().T).amax(dim=0) + bias.double()
    assert not closed[truth > 0].any()
    assert closed[LENGTHS == 0].all()
    # ... and of use: what stays open is open, or within a few hundredths of |t| |w| of it
    size = rows.norm(dim=1).max() * weight.norm(dim=1).max()
    assert truth[~closed].min() > -0.05 * size


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_head_is_the_same_with_and_without(with_bias):
    hidden, weight, bias, mask = head()
    if not with_bias:  # a column that is constant in t stands in for the bias, so that few terms fire
        hidden, weight = torch.cat([hidden, torch.ones(*mask.shape, 1)], 2), torch.cat([weight, bias[:, None]], 1)
        bias = None
    leaves = [hidden.requires_grad_(), weight.requires_grad_()] + ([bias.requires_grad_()] if with_bias else [])
    screened = sparse_head(hidden, weight, bias, mask, screen=Screen(weight.detach()))
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


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_shows(poison):
    hidden, weight, bias, mask = head()
    hidden[0, 2, 5] = poison
    got = sparse_head(hidden, weight, bias, mask, screen=Screen(weight))
    expected = sparse_head(hidden.double(), weight.double(), bias.double(), mask)
    assert not got[0].isfinite().all()
    torch.testing.assert_close(got[1:], expected[1:].float(), atol=5e-5, rtol=1e-5)


def test_half_precision_and_devices_without_it_have_no_screen(monkeypatch):
    weight = torch.randn(10, 4)
    assert make_screen(weight.bfloat16()) is None
    monkeypatch.setattr("pyterrier_rescale.screening._half_is_fast", lambda width: False)
    assert make_screen(weight) is None
    monkeypatch.setattr("pyterrier_rescale.screening._half_is_fast", lambda width: True)
    assert isinstance(make_screen(weight), Screen)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_maximum_by_bits(shift):
    values = (torch.randn(7, 5, 300, generator=torch.Generator().manual_seed(3)) + shift).bfloat16()
    values[0, :, 0], values[1, :, 0] = -0.0, 0.0
    assert torch.equal(_amax(values), values.amax(dim=1))
    some = _amax(values, positive_counts=True)
    above = values.amax(dim=1) >= 0
    assert torch.equal(some[above], values.amax(dim=1)[above]) and (some[~above] < 0).all()


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
