"""Parts of a step: every text once, one gradient as if all had run together."""

import pytest
import tiny
import torch

from pyterrier_rescale.training import model as training_model
from pyterrier_rescale.training.model import SharedLookup, SparseHead, split


@pytest.mark.parametrize("size", [None, 1, 3])
def test_every_text_is_in_one_part_of_few_tokens(size, monkeypatch):
    monkeypatch.setattr(training_model, "_CPU_TOKENS", 20)
    lengths = torch.tensor([3, 9, 1, 30, 9, 2, 0, 4])
    parts = split(torch.arange(30) < lengths[:, None], size)
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    for part in parts:
        assert len(part) == 1 or len(part) * lengths[part].max() <= 20
        assert size is None or len(part) <= size


def test_padding_on_the_left_is_split_as_it_is():
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    assert [part.tolist() for part in split(mask, 2)] == [[0, 1], [2]]


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_gradients_of_parts_are_those_of_the_whole(family, mini_batch_size, monkeypatch):
    monkeypatch.setattr(training_model, "_CPU_TOKENS", 40)
    model, tokenizer = tiny.build(family)
    model.eval()  # no dropout
    module = SparseHead(model, tokenizer, max_length=64)
    sides = [module.tokenise(tiny.TEXTS[:4], 64), module.tokenise(tiny.TEXTS[4:11], 64)]
    got = module({"sides": [dict(side) for side in sides], "mini_batch_size": mini_batch_size})["sentence_embeddings"]
    sum(vectors.square().sum() for vectors in got).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    word_embeddings = next(name for name, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    model.zero_grad()
    expected = []
    for side in sides:  # the stock model and the plain formula
        logits = model(**side).logits.masked_fill(~side["attention_mask"].bool()[..., None], -torch.inf)
        expected.append(torch.log1p(torch.relu(logits.amax(dim=1))))
    sum(vectors.square().sum() for vectors in expected).backward()
    # the padding token's row is zero, so all positions tie, and a maximum may choose any
    for gradient in (grads[word_embeddings], model.get_input_embeddings().weight.grad):
        gradient[tokenizer.pad_token_id] = 0
    for ours, stock in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if name in grads:
            scale = float(parameter.grad.abs().max().clamp_min(1e-3))
            torch.testing.assert_close(grads[name] / scale, parameter.grad / scale, atol=1e-4, rtol=1e-3, msg=name)


def test_one_lookup_gives_one_gradient_of_the_embeddings():
    embeddings = torch.nn.Embedding(10, 4, padding_idx=0)
    ids = torch.tensor([[3, 5, 0], [5, 7, 7]])
    plain = embeddings(ids)
    plain.square().sum().backward()
    expected, embeddings.weight.grad = embeddings.weight.grad, None
    lookup = SharedLookup(embeddings, [ids])
    with lookup():
        parts = [embeddings(ids[:1]), embeddings(ids[1:])]
    torch.testing.assert_close(torch.cat(parts), plain)
    sum(part.square().sum() for part in parts).backward()
    torch.testing.assert_close(embeddings.weight.grad, expected)
    assert not embeddings._forward_hooks


@pytest.mark.parametrize("mini_batch_size", [1, 2, 3])
def test_tokenizers_that_pad_on_the_left(mini_batch_size):
    """Trained on the vectors that the encoder gives, and split as unsplit."""
    from pyterrier_rescale import Splade

    model, tokenizer = tiny.build("bert")
    tokenizer.padding_side = "left"
    module = SparseHead(model.eval(), tokenizer, max_length=64)
    side = module.tokenise(tiny.TEXTS, 64)
    whole = module({"sides": [dict(side)]})["sentence_embeddings"][0]
    parts = module({"sides": [dict(side)], "mini_batch_size": mini_batch_size})["sentence_embeddings"][0]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    expected = Splade(model, tokenizer=tokenizer, max_length=64).encode_docs(tiny.TEXTS).toarray()
    torch.testing.assert_close(parts.detach(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mini_batch_size", [1, 2, 3])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_any_mask_is_split_as_unsplit(family, mini_batch_size):
    """Features padded on the left or with holes, as others may give them: no text loses a token."""
    model, tokenizer = tiny.build(family)
    module = SparseHead(model.eval(), tokenizer, max_length=64)
    ids = torch.randint(5, 200, (4, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 12, dtype=torch.long)
    mask[0, 9:] = mask[1, 2:] = mask[2, ::3] = mask[3, :4] = 1
    side = {"input_ids": ids, "attention_mask": mask}
    whole = module({"sides": [dict(side)]})["sentence_embeddings"][0]
    parts = module({"sides": [dict(side)], "mini_batch_size": mini_batch_size})["sentence_embeddings"][0]
    assert (parts.detach().sum(dim=1) > 0).all()
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
