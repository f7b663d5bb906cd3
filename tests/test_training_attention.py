"""Attention with dropout against the plain formula, gradcheck, and stock models."""

import math

import pytest
import tiny
import torch
from torch.nn.functional import scaled_dot_product_attention

from pyterrier_rescale.training import attention
from pyterrier_rescale.training.attention import NAME, _DropoutAttention, dropout_attention, lean_attention

SIZE, HEADS, LENGTH, WIDTH = 5, 2, 7, 4


class Layer(torch.nn.Module):
    is_causal = False


@pytest.fixture
def states():
    torch.manual_seed(0)
    return [torch.randn(SIZE, LENGTH, HEADS, WIDTH).transpose(1, 2).requires_grad_() for _ in range(3)]


@pytest.fixture
def mask():
    """Of texts of 7, 3, 1, 0 and 5 tokens."""
    lengths = torch.tensor([7, 3, 1, 0, 5])
    return (torch.arange(LENGTH) < lengths[:, None])[:, None, None, :].expand(SIZE, 1, LENGTH, LENGTH)


def plain(query, key, value, mask, dropout, kept):
    scores = query @ key.transpose(2, 3) / math.sqrt(WIDTH)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    probabilities = scores.softmax(dim=-1)
    if mask is not None:
        probabilities = probabilities * mask.any(dim=-1, keepdim=True)
    return (probabilities * kept / (1 - dropout) @ value).transpose(1, 2)


@pytest.mark.parametrize("block", [1, 2 * HEADS * LENGTH * LENGTH, 1 << 18])
@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_formula_and_its_gradients(states, mask, masked, block, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK", block)
    mask = mask if masked else None
    # keep all is drawn with the very least dropout; which are dropped is compared below
    got = dropout_attention(Layer(), *states, mask, dropout=1e-12)[0]
    expected = plain(*states, mask, 0.0, torch.ones(()))
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(got)
    grads = torch.autograd.grad((got * weights).sum(), states)
    for found, wanted in zip(grads, torch.autograd.grad((expected * weights).sum(), states), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        got[:3], scaled_dot_product_attention(*states, attn_mask=mask).transpose(1, 2)[:3], atol=1e-5, rtol=1e-5
    )


def test_dropped_probabilities(states, mask):
    dropout = 0.4
    torch.manual_seed(3)
    got = dropout_attention(Layer(), *states, mask, dropout=dropout)[0]
    torch.manual_seed(3)
    kept = torch.empty(SIZE, HEADS, LENGTH, LENGTH, dtype=torch.bool).bernoulli_(1 - dropout)
    assert 0.4 < kept.float().mean() < 0.8
    expected = plain(*states, mask, dropout, kept)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(got)
    grads = torch.autograd.grad((got * weights).sum(), states)
    for found, wanted in zip(grads, torch.autograd.grad((expected * weights).sum(), states), strict=True):
        torch.testing.assert_close(found, wanted)


def test_gradcheck(states, mask):
    def run(query, key, value):
        torch.manual_seed(1)
        return _DropoutAttention.apply(query, key, value, mask, 0.3, 0.5)

    assert torch.autograd.gradcheck(run, [state.detach().double().requires_grad_() for state in states])


def test_additive_masks(states, mask):
    added = torch.zeros(mask.shape).masked_fill(~mask, -1e4)
    got = dropout_attention(Layer(), *states, added, dropout=1e-12)[0]
    torch.testing.assert_close(got[:3], plain(*states, mask, 0.0, torch.ones(()))[:3])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_stock_model_in_training_computes_the_same(family, monkeypatch):
    model, tokenizer = tiny.build(family)
    used = []
    monkeypatch.setattr(
        _DropoutAttention, "apply", lambda *given, apply=_DropoutAttention.apply: used.append(1) or apply(*given)
    )
    batch = tokenizer(tiny.TEXTS[:3], padding=True, return_tensors="pt", return_token_type_ids=False)
    mask = batch["attention_mask"].bool()
    stock = model.eval()(**batch).logits[mask]
    # training mode without any dropout but attention's, which drops next to nothing
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1e-12 if module.p else 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 1e-12
    model.train()
    with lean_attention(model):
        assert model.config._attn_implementation == NAME
        got = model(**batch).logits[mask]
        got.square().mean().backward()
    assert used, "the model does not use it"
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(got, stock, atol=1e-5, rtol=1e-5)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.eval()(**batch).logits[mask].square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in grads:
            torch.testing.assert_close(grads[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_what_it_cannot_do_goes_to_transformers(states):
    with torch.no_grad():
        whole = dropout_attention(Layer(), *states, None, dropout=0.0)[0]
        torch.testing.assert_close(whole, scaled_dot_product_attention(*states).transpose(1, 2))
        causal = dropout_attention(Layer(), *states, None, dropout=1e-12, is_causal=True)[0]
        torch.testing.assert_close(causal, scaled_dot_product_attention(*states, is_causal=True).transpose(1, 2))


def test_other_implementations_are_left_alone():
    model, _ = tiny.build("bert")
    model.set_attn_implementation("eager")
    with lean_attention(model):
        assert model.config._attn_implementation == "eager"
