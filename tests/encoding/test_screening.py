"""Screening never changes a result: its bounds hold, and the head gives the same with and without it."""

from __future__ import annotations

import math

import pytest
import torch
from dense import dense_pooled
from dense import head_of_padded as sparse_head

from pyterrier_rescale.encoding import screening
from pyterrier_rescale.encoding.screening import Screen

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


@pytest.mark.parametrize("common", [0.0, 30.0])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.3])
def test_no_open_term_counts_as_closed(seed, scale, spread, shift, common):
    """Biases that put the threshold well above, at, and below zero; t with dimensions that stand out in all rows."""
    hidden, weight, bias, mask = head(seed, scale, spread=spread)
    hidden[..., :3] += common
    rows = hidden[mask]
    bias = bias * -shift - weight[:, :3].sum(dim=1) * common
    screen = Screen(weight)
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
    assert truth[~closed].min() > -0.05 * size


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_head_is_the_same_with_and_without(with_bias):
    hidden, weight, bias, mask = head()
    if not with_bias:  # a column that is constant in t stands in for the bias, so that few terms fire
        hidden, weight = torch.cat([hidden, torch.ones(*mask.shape, 1)], 2), torch.cat([weight, bias[:, None]], 1)
        bias = None
    leaves = [hidden.requires_grad_(), weight.requires_grad_()] + ([bias.requires_grad_()] if with_bias else [])
    screened = sparse_head(hidden, weight, bias, mask, screen=Screen(weight))
    logits = hidden @ weight.T + (bias if with_bias else 0)
    plain = dense_pooled(logits, mask)
    assert 0 < plain.count_nonzero() < screening.MAX_CANDIDATES * plain.numel() / 2
    torch.testing.assert_close(screened, plain, atol=5e-5, rtol=1e-5)  # logits of some 40, float32
    assert not screened[2].any()
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9))
    for got, expected in zip(
        torch.autograd.grad(screened, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_shows(poison):
    hidden, weight, bias, mask = head()
    hidden[0, 2, 5] = poison
    screen = Screen(weight)
    got = sparse_head(hidden, weight, bias, mask, screen=screen)
    expected = sparse_head(hidden.double(), weight.double(), bias.double(), mask)
    assert not got[0].isfinite().all()
    torch.testing.assert_close(got[1:], expected[1:].float(), atol=5e-5, rtol=1e-5)
    assert screen.centre.isfinite().all()  # what comes after is not spoilt
    weight[7, 3], bias[8], bias[9] = poison, poison, -math.inf
    closed = Screen(weight).closed(hidden[mask][-31:], torch.tensor([31]), bias)
    assert not closed[0, [7, 8]].any() and closed[0, 9]


@pytest.mark.parametrize("width", [96, 768, 1024])
def test_products_of_bfloat16_are_what_the_bound_assumes(width):
    """At the format's extremes, in patterns of signs with the largest partial sums: float32's sum and one rounding."""
    place = torch.arange(width)
    signs = torch.stack([1 - 2 * (place // 2**power % 2) for power in range(width.bit_length() + 1)])
    factor = torch.cat([signs, -signs]).double() * 255 / 128
    got = (factor.bfloat16() @ factor.bfloat16().T).double()
    exact = factor @ factor.T
    allowed = 2.0**-8 * exact.abs() + (2 * width + 16) * 2.0**-24 * width * (255 / 128) ** 2
    assert ((got - exact).abs() <= allowed).all()
