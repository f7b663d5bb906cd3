"""The sparse head against the plain formula over (B, L, V)."""

from __future__ import annotations

import pytest
import torch

from pyterrier_rescale.encoding import blocks, kernel
from pyterrier_rescale.encoding.kernel import sparse_head


def plain(hidden, weight, bias, mask, pooling):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    active = torch.log1p(torch.relu(logits)) * mask[..., None]
    return active.amax(dim=1) if pooling == "max" else active.sum(dim=1)


def batch(dtype=torch.float64, shape=(4, 6, 5), vocab=2500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(shape, generator=generator, dtype=dtype)
    weight = torch.randn(vocab, shape[-1], generator=generator, dtype=dtype)
    bias = torch.randn(vocab, generator=generator, dtype=dtype) - 1
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    return [x.requires_grad_() for x in (hidden, weight, bias)], mask


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shift", [0.0, -3.0, 50.0])
def test_equals_the_plain_formula_with_gradients(pooling, with_bias, shift):
    (hidden, weight, bias), mask = batch()
    used = bias + shift if with_bias else None
    ours, truth = (f(hidden, weight, used, mask, pooling) for f in (sparse_head, plain))
    torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)
    assert not ours[2].any(), "a fully masked text has no terms"
    upstream = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(1))
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    for got, expected in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(truth, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_gradcheck(pooling):
    (hidden, weight, bias), mask = batch(vocab=7)
    assert torch.autograd.gradcheck(lambda h, w, b: sparse_head(h, w, b, mask, pooling), (hidden, weight, bias))


def test_ties_share_no_gradient_twice():
    """Two equal positions: the plain maximum splits the gradient of W between them; ours gives it to one."""
    (hidden, weight, bias), mask = batch()
    with torch.no_grad():
        hidden[0, 3] = hidden[0, 1]
    ours, truth = (f(hidden, weight, bias, mask, "max") for f in (sparse_head, plain))
    torch.testing.assert_close(ours, truth)
    for leaf in (weight, bias):
        got, expected = (torch.autograd.grad(x.sum(), leaf, retain_graph=True)[0] for x in (ours, truth))
        torch.testing.assert_close(got, expected)
    got, expected = (torch.autograd.grad(x.sum(), hidden)[0] for x in (ours, truth))
    torch.testing.assert_close(got[0, 1] + got[0, 3], expected[0, 1] + expected[0, 3])


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_many_blocks_give_the_same_as_one(pooling, monkeypatch):
    (hidden, weight, bias), mask = batch()
    whole = sparse_head(hidden, weight, bias, mask, pooling)
    monkeypatch.setattr(blocks, "_VOCAB_CHUNK", 37)
    monkeypatch.setattr(blocks, "CPU_BLOCK", 37 * 4)
    torch.testing.assert_close(sparse_head(hidden, weight, bias, mask, pooling), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_written_out_and_gathered_gradients_are_the_same(share, monkeypatch):
    """A share of 0 writes S out whatever it holds; of 1 it always gathers."""
    (hidden, weight, bias), mask = batch()
    truth = plain(hidden, weight, bias, mask, "max")
    upstream = torch.randn(truth.shape, dtype=truth.dtype, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(kernel, "_DENSE_ENTRIES", share)
    got = torch.autograd.grad(sparse_head(hidden, weight, bias, mask), (hidden, weight, bias), upstream)
    for ours, expected in zip(got, torch.autograd.grad(truth, (hidden, weight, bias), upstream), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_behind_a_compiled_body():
    (hidden, weight, bias), mask = batch()
    body = torch.nn.Linear(5, 5, dtype=torch.float64)
    compiled = torch.compile(body, backend="aot_eager")
    ours = sparse_head(compiled(hidden), weight, bias, mask)
    truth = plain(body(hidden), weight, bias, mask, "max")
    torch.testing.assert_close(ours, truth)
    ours, truth = (torch.autograd.grad(x.sum(), body.weight)[0] for x in (ours, truth))
    torch.testing.assert_close(ours, truth)


def test_only_the_gradients_asked_for():
    (hidden, weight, bias), mask = batch()
    for leaf in (hidden, weight, bias):
        others = [x.detach() if x is not leaf else x for x in (hidden, weight, bias)]
        assert torch.autograd.grad(sparse_head(*others, mask).sum(), leaf)[0].shape == leaf.shape
    with torch.no_grad():
        assert not sparse_head(hidden, weight, bias, mask).requires_grad


def test_autocast_and_checkpointing():
    from torch.utils.checkpoint import checkpoint

    (hidden, weight, bias), mask = batch(torch.float32)
    truth = plain(hidden, weight, bias, mask, "max")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = sparse_head(hidden, weight, bias, mask)
    assert half.dtype == torch.float32
    assert (half - truth).abs().max() < 0.05
    again = checkpoint(sparse_head, hidden, weight, bias, mask, use_reentrant=False)
    torch.testing.assert_close(again, truth, atol=1e-5, rtol=1e-5)
    for got, expected in zip(
        torch.autograd.grad(again.sum(), (hidden, weight)), torch.autograd.grad(truth.sum(), (hidden, weight)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean"}, "pooling must be 'max' or 'sum', got 'mean'"),
        ({"mask": torch.ones(2, 2)}, r"mask must be \[4, 6\] like hidden, got \(2, 2\)|mask must be \(4, 6\)"),
        ({"weight": torch.ones(7, 3)}, r"hidden must be \(B, L, H\) and weight \(V, H\)"),
    ],
)
def test_bad_arguments(change, message):
    (hidden, weight, bias), mask = batch()
    arguments = {"hidden": hidden, "weight": weight, "bias": bias, "mask": mask, "pooling": "max", **change}
    with pytest.raises(ValueError, match=message):
        sparse_head(**arguments)
