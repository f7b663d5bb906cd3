"""What a Splade shares with others: its model, its tokenizer, its process. Nobody sees that it is there."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import torch
from transformers import PreTrainedTokenizerFast

from pyterrier_rescale import Splade, audit, calibrate
from pyterrier_rescale.analysis.measurement import run_probe
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder

LONG = [" ".join(tiny.TEXTS[i:] + tiny.TEXTS[:i]) for i in range(12)]


def in_threads(*calls, rounds=6):
    """Results of each call, run at once again and again."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return [call() for _ in range(rounds)]

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


@pytest.fixture
def slow_switch(monkeypatch):
    """Time for another thread between the switching of a tokenizer's state and the call."""
    switch = PreTrainedTokenizerFast.set_truncation_and_padding

    def slowly(*args, **kwargs):
        switch(*args, **kwargs)
        time.sleep(0.003)

    monkeypatch.setattr(PreTrainedTokenizerFast, "set_truncation_and_padding", slowly)


def same(got, expected):
    return all(abs(vectors - expected).max() < 1e-5 for vectors in got)


def test_static_queries_beside_documents(tmp_path, slow_switch):
    """Their lengths differ, so a shared tokenizer would be switched between two calls."""
    model, tok = tiny.build("bert")
    weights = np.linspace(0.1, 1, len(tok), dtype=np.float32)
    save_encoder(tmp_path, model, tok, Description(max_length=64, queries=QuerySide(weights=weights, max_length=5)))
    splade = Splade(tmp_path)
    documents, queries = splade.encode_docs(LONG), splade.encode_queries(LONG)
    found = in_threads(*[lambda: splade.encode_docs(LONG), lambda: splade.encode_queries(LONG)] * 2, rounds=8)
    assert all(same(got, expected) for got, expected in zip(found, [documents, queries] * 2, strict=True))


def test_two_encoders_of_one_model_and_its_owner(bert_folder):
    model, tok = tiny.build("bert")
    one, two = Splade(model, tokenizer=tok, max_length=64), Splade(model, tokenizer=tok, max_length=16, pooling="sum")
    batch = tok(LONG, truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    first, second = one.encode_docs(LONG), two.encode_docs(LONG)

    def own():
        with torch.no_grad():
            return model(**batch).logits

    found = in_threads(lambda: one.encode_docs(LONG), lambda: two.encode_docs(LONG), own)
    assert same(found[0], first) and same(found[1], second)
    assert all(torch.allclose(got, logits, atol=1e-5) for got in found[2]), "others' calls get their logits"


@pytest.mark.parametrize("what", ["construct", "encode", "rescale", "audit", "calibrate"])
def test_the_callers_model_stays_in_its_mode(what):
    model, tok = tiny.build("bert", hidden_dropout_prob=0.5)
    model.train()
    model.bert.embeddings.eval()  # a part that is frozen
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = [(parameter.data_ptr(), parameter.device, parameter.requires_grad) for parameter in model.parameters()]
    texts = tiny.TEXTS * 4
    if what == "audit":
        run_probe(model, tok, tiny.TEXTS, tiny.TEXTS)
        audit(model)
    elif what == "calibrate":
        calibrate(model, tiny.TEXTS, tokenizer=tok, rate=0.3).apply(model)
    else:
        splade = Splade(model, tokenizer=tok, rescale=2 if what == "rescale" else None)
        if what != "construct":
            vectors = splade.encode_docs(texts)
            assert abs(vectors - splade.encode_docs(texts)).max() == 0, "no dropout while encoding"
    assert [module.training for module in model.modules()] == modes
    assert places == [(p.data_ptr(), p.device, p.requires_grad) for p in model.parameters()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
