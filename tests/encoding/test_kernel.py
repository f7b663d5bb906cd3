"""The sparse head against the plain formula over (B, L, V)."""

from __future__ import annotations

import pytest
import torch
from dense import dense_pooled
from dense import head_of_padded as sparse_head

from pyterrier_rescale.encoding import blocks, kernel
from pyterrier_rescale.encoding.description import Description


def plain(hidden, weight, bias, mask, pooling="max", **options):
    return dense_pooled(hidden @ weight.T + (0 if bias is None else bias), mask, pooling, **options)


def batch(dtype=torch.float64, shape=(4, 6, 5), vocab=2500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(shape, generator=generator, dtype=dtype)
    weight = torch.randn(vocab, shape[-1], generator=generator, dtype=dtype)
    bias = torch.randn(vocab, generator=generator, dtype=dtype) - 1
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    return [x.requires_grad_() for x in (hidden, weight, bias)], mask


def check(ours, truth, leaves):
    """Values and gradients."""
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)
    upstream = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(1))
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(truth, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shift", [0.0, -3.0, 50.0])
def test_equals_the_plain_formula_with_gradients(activation, pooling, with_bias, shift):
    (hidden, weight, bias), mask = batch()
    used = bias + shift if with_bias else None
    ours, truth = (f(hidden, weight, used, mask, pooling, activation=activation) for f in (sparse_head, plain))
    assert not ours[2].any(), "a fully masked text has no terms"
    check(ours, truth, (hidden, weight, bias) if with_bias else (hidden, weight))


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("k", [1, 12, 2499, 9999])
def test_the_largest_logits_of_each_position(activation, pooling, with_bias, k, monkeypatch):
    monkeypatch.setattr(blocks, "_VOCAB_CHUNK", 37)
    monkeypatch.setattr(blocks, "_CPU_BLOCK", 37 * 4)
    (hidden, weight, bias), mask = batch()
    used = bias - 2 if with_bias else None
    options = {"activation": activation, "position_top_k": k}
    ours, truth = (f(hidden, weight, used, mask, pooling, **options) for f in (sparse_head, plain))
    if k < 2500:
        assert (ours > 0).sum() <= mask.sum() * k and not ours[2].any()
    check(ours, truth, (hidden, weight, bias) if with_bias else (hidden, weight))


def test_the_largest_logits_of_equal_positions_and_of_what_is_no_number():
    (hidden, weight, bias), mask = batch()
    with torch.no_grad():
        hidden[0, 3] = hidden[0, 1]
    got, expected = (
        torch.autograd.grad(x.sum(), weight)[0]
        for x in (
            sparse_head(hidden, weight, bias, mask, position_top_k=9),
            plain(hidden, weight, bias, mask, position_top_k=9),
        )
    )
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        hidden[0, 0, 0] = float("nan")
        assert sparse_head(hidden, weight, bias, mask, position_top_k=9)[0].isnan().any()
        how = Description(position_top_k=9)
        empty = kernel.packed_head(hidden[0, :0], torch.zeros(2, dtype=torch.long), weight, bias, how)
    assert empty.shape == (2, 2500) and not empty.any()


@pytest.mark.parametrize("k", [None, 50])
def test_autocast(k):
    (hidden, weight, bias), mask = batch(torch.float32)
    truth = plain(hidden, weight, bias, mask, position_top_k=k)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = sparse_head(hidden, weight, bias, mask, position_top_k=k)
    assert half.dtype == torch.float32
    assert ((half - truth).abs() > 0.05).float().mean() < 2e-3  # of nearly equal logits another may be kept
    half.sum().backward()
    assert hidden.grad.isfinite().all() and weight.grad.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("options", [{"pooling": "max"}, {"pooling": "sum"}, {"pooling": "max", "position_top_k": 12}])
@pytest.mark.parametrize("shift", [-30.0, 0.0])  # few terms are open, or all
def test_a_gpu_gives_what_the_cpu_gives(options, shift):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(40, 90, dtype=torch.bool)
    mask[3, 20:] = mask[5, 7:] = False
    leaves = [torch.randn(shape, generator=generator) for shape in ((40, 90, 64), (5000, 64), (5000,))]
    upstream = torch.randn(40, 5000, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        hidden, weight, bias = (leaf.to(device).requires_grad_() for leaf in leaves)
        vectors = sparse_head(hidden, weight, bias + shift, mask.to(device), **options)
        vectors.backward(upstream.to(device))
        results.append([vectors.detach(), hidden.grad, weight.grad, bias.grad])
    for ours, truth in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours.cpu(), truth, rtol=0, atol=2e-5 * float(truth.abs().max()))
