"""Padding must not reach a text's vector: on whichever side, in families that do not mask it."""

from __future__ import annotations

import pytest
import tiny
import torch

from pyterrier_rescale import train
from pyterrier_rescale.training.model import SparseHead


def test_a_backbone_whose_tokens_see_the_padding_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(tiny.FAMILIES, "fnet", ("FNetConfig", {}, "wordpiece"))
    model, tok = tiny.build("fnet")
    pairs = [(f"query {i}", f"document {i}") for i in range(32)]
    with pytest.raises(ValueError, match="FNetForMaskedLM cannot be trained in batches: its tokens see the padding"):
        train(model, pairs, tmp_path / "out", tokenizer=tok, rescale=None, max_steps=1)


def test_a_tokenizer_that_pads_on_the_left_trains_as_one_that_pads_on_the_right():
    model, tok = tiny.build("bert")
    texts = [tiny.TEXTS[0], "short", *tiny.TEXTS[1:4]]
    vectors = []
    for side in ("left", "right"):
        tok.padding_side = side
        module = SparseHead(model, tok)
        sides = {"sides": [module.tokenise(texts, 64)], "mini_batch_size": 2}
        vectors.append(module(sides)["sentence_embeddings"][0].detach())
    assert torch.equal(*vectors) and (vectors[0] > 0).any(dim=1).all()
