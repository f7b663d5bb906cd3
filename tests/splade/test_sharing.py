"""What a Splade shares with others: its model, its tokenizer, its process. Nobody sees that it is there."""

from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import torch
from pyterrier_rescale.encoding.model_folder import save_encoder
from pyterrier_rescale.encoding.query_encoder import QuerySide
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pyterrier_rescale import Splade, audit, calibrate
from pyterrier_rescale.analysis.measurement import run_probe
from pyterrier_rescale.heads.decoder import head_input

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
    save_encoder(tmp_path, model, tok, pooling="max", max_length=64, queries=QuerySide(weights=weights, max_length=5))
    splade = Splade(tmp_path)
    documents, queries = splade.encode_docs(LONG), splade.encode_queries(LONG)
    found = in_threads(*[lambda: splade.encode_docs(LONG), lambda: splade.encode_queries(LONG)] * 2, rounds=8)
    assert all(same(got, expected) for got, expected in zip(found, [documents, queries] * 2, strict=True))


def test_a_tokenizer_that_its_owner_goes_on_using(bert_folder, slow_switch):
    tokens = AutoTokenizer.from_pretrained(bert_folder)
    splade = Splade(bert_folder, tokenizer=tokens, max_length=64)
    expected = splade.encode_docs(LONG)
    found = in_threads(
        lambda: splade.encode_docs(LONG),
        lambda: [tokens(LONG, truncation=True, padding="max_length", max_length=n) for n in (6, 70)] and expected,
        rounds=8,
    )
    assert same(found[0], expected)
    tokens.add_tokens(["sparse"])
    assert same([splade.encode_docs(LONG)], expected)


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


def test_patches_and_hooks_of_others_stay_and_run():
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Counting(ModelHook):
        before = after = 0

        def pre_forward(self, module, *args, **kwargs):
            self.before += 1
            return args, kwargs

        def post_forward(self, module, output):
            self.after += 1
            return output

    model, tok = tiny.build("bert")
    expected = Splade(copy.deepcopy(model), tokenizer=tok).encode_docs(tiny.TEXTS)
    decoder, counts = model.get_output_embeddings(), Counting()
    add_hook_to_module(decoder, counts)
    rows = []
    decoder.register_forward_hook(lambda module, args, out: rows.append(out.numel()))
    patched = decoder.forward
    splade = Splade(model, tokenizer=tok)
    before = len(rows)
    assert same([splade.encode_docs(tiny.TEXTS)], expected)
    assert decoder.forward is patched and not decoder._forward_pre_hooks and len(decoder._forward_hooks) == 1
    assert counts.before == counts.after == len(rows) > before
    assert not any(rows[before:]), "not a single logit is computed"
    with torch.no_grad():
        assert model(**tok("x", return_tensors="pt")).logits.numel()


def test_the_hook_that_changes_what_the_decoder_gets_counts():
    model, tok = tiny.build("bert")
    plain = Splade(copy.deepcopy(model), tokenizer=tok).encode_docs(tiny.TEXTS)
    model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    doubled = Splade(model, tokenizer=tok).encode_docs(tiny.TEXTS)
    assert abs(doubled - plain).max() > 0.1
    batch = tok(tiny.TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        stock = model(**batch).logits[0].amax(dim=0).clamp_min(0).log1p()
    np.testing.assert_allclose(doubled[0].toarray()[0], stock.numpy(), atol=1e-5)


def test_the_head_input_has_its_gradient():
    model, tok = tiny.build("modernbert")
    batch = tok(tiny.TEXTS[:3], padding=True, return_tensors="pt")
    kept = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model(**batch)
    hook.remove()
    (expected,) = torch.autograd.grad(kept[0].square().sum(), [model.head.dense.weight])
    (got,) = torch.autograd.grad(head_input(model, **batch).square().sum(), [model.head.dense.weight])
    torch.testing.assert_close(got, expected)


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


def test_another_device_gets_a_copy():
    from pyterrier_rescale.encoding.text_encoder import on_device

    model, _ = tiny.build("bert")
    assert on_device(model, torch.device("cpu")) is model
    elsewhere = on_device(model, torch.device("meta"))
    assert elsewhere is not model and elsewhere.device.type == "meta" and model.device.type == "cpu"
