"""Queries encoded otherwise than documents: trained, saved, and the same vectors in stock sentence-transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from dense import by_sparse_encoder, dense_weights
from test_run import FAST, PAIRS, log_of
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import Splade, train
from pyterrier_rescale.analysis.head_statistics import random_saturation
from pyterrier_rescale.encoding.lexical import StaticEncoder
from pyterrier_rescale.encoding.text_encoder import TextEncoder
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.initialization import idf_weights, starting_module
from pyterrier_rescale.training.loading import load_rows

QUERIES = [query for query, _ in PAIRS] + ["Sparse sparse SPARSE [SEP] café", "x " * 60, tiny.TEXTS[4]]
TEXTS = [text for _, text in PAIRS]


def check_same(splade, folder):
    documents, queries = by_sparse_encoder(folder, TEXTS, QUERIES)
    np.testing.assert_allclose(splade.encode_queries(QUERIES).toarray(), queries, atol=1e-4)
    np.testing.assert_allclose(splade.encode_docs(TEXTS).toarray(), documents, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert"])  # the latter has padding rows in its head
def test_static_queries(family, request, tmp_path):
    backbone = request.getfixturevalue(f"{family}_folder")
    splade = train(
        backbone, PAIRS, tmp_path / "out", rescale=4.0, queries="static", query_max_length=24, static_learning_rate=0.1,
        **FAST,
    )  # fmt: skip
    assert isinstance(splade.queries_encoder, StaticEncoder) and splade.queries_encoder.max_length == 24
    check_same(splade, tmp_path / "out")
    logits = dense_weights(  # AutoModelForMaskedLM loads the documents' model from the same folder
        AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval(), splade.encoder.tokenizer, TEXTS, max_length=32
    ).detach()  # fmt: skip
    np.testing.assert_allclose(splade.encode_docs(TEXTS).toarray(), logits, atol=1e-4)
    rows = log_of(tmp_path / "out")
    assert {row["penalty_q"] for row in rows} == {row["lambda_q"] for row in rows} == {0.0}
    assert rows[-1]["lambda_d"] > 0
    model, tokenizer = load_backbone(backbone)
    start = idf_weights(load_rows(PAIRS), tokenizer, 32)
    moved = splade.description.queries.weights[: len(start)] != start
    assert moved.any() and not moved.all()  # tokens that no query has keep their IDF
    assert (splade.description.queries.weights >= 0).all()

    splade.save_pretrained(tmp_path / "again")
    again = Splade(tmp_path / "again")
    assert (again.encode_queries(QUERIES) != splade.encode_queries(QUERIES)).nnz == 0
    check_same(again, tmp_path / "again")


def test_idf_by_hand(bert_folder):
    _, tokenizer = load_backbone(bert_folder)
    rows = load_rows([("q", "the the index"), ("r", "the query"), ("s", "the query")])  # two different documents
    idf = idf_weights(rows, tokenizer, 32)
    the, absent = tokenizer.convert_tokens_to_ids(["the", "vocabulary"])
    assert float(idf[the]) == pytest.approx(np.log(1 + 0.5 / 2.5))
    assert float(idf[absent]) == pytest.approx(np.log(1 + 2.5 / 0.5))
    assert float(idf[tokenizer.sep_token_id]) == 0.0


@pytest.mark.parametrize("fold", [None, "case"])
def test_static_module_equals_the_encoder(fold, modernbert_folder):
    """In training as in use; two copies of a token count once, and a negative weight is no weight."""
    config = TrainConfig(queries="static", max_length=32, fold=fold)
    module = starting_module(modernbert_folder, None, load_rows(PAIRS), config)
    with torch.no_grad():
        module.query_weights[::3] = -1.0
    got = module([module.tokenise(QUERIES, 32, queries=True)])[0].detach().numpy()
    expected = TextEncoder(module.mlm, module.tokenizer, module.described()).of_queries().encode(QUERIES)
    np.testing.assert_allclose(got, expected.toarray(), atol=1e-6)
    empty = module([module.tokenise([""], 32, queries=True)])[0]
    assert empty.shape == got[:1].shape and not empty.any()


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "max", "query_pooling": "sum"},
        {"pooling": "sum", "query_pooling": "max"},
        {"activation": "log1p_relu", "query_activation": "relu", "rescale": "calibrated"},
    ],
)
def test_queries_of_their_own(options, bert_folder, tmp_path):
    out = tmp_path / "out"
    splade = train(bert_folder, PAIRS, out, **{"rescale": 4.0, **options}, **FAST)
    assert all(getattr(splade, name) == value for name, value in options.items() if name in ("pooling", "activation"))
    assert abs(splade.encode_queries(TEXTS) - splade.encode_docs(TEXTS)).max() > 0.01
    check_same(splade, out)
    splade.save_pretrained(tmp_path / "again")
    check_same(Splade(tmp_path / "again"), tmp_path / "again")
    clone = Splade(out, pooling=splade.pooling, max_length=splade.max_length)
    assert (clone.encode_queries(QUERIES) != splade.encode_queries(QUERIES)).nnz == 0


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("calibrated", {"pooling": "sum"}),
        ("auto", {"query_pooling": "sum"}),
        ("calibrated", {"query_pooling": "sum"}),
        ("auto", {"queries": "static"}),
        ("calibrated", {"queries": "static"}),
    ],
)
def test_measured_rescalings_aim_at_what_is_trained(how, options, tmp_path):
    """The first step's scores are those that k was chosen for: their saturation is not that of another encoder."""
    model, tokenizer = tiny.build("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.no_grad():
        model.cls.predictions.transform.LayerNorm.weight.mul_(8)
    train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, rescale=how,
          **{**FAST, "max_steps": 1, "batch_size": 12, **options})  # fmt: skip
    record = json.loads((tmp_path / "out" / "config.json").read_text())["pyterrier_rescale"]
    start = starting_module(model, tokenizer, load_rows(PAIRS), TrainConfig(rescale=how, batch_size=12, max_length=32,
                                                                            **options))  # fmt: skip
    with torch.no_grad():
        asked = start.tokenise([query for query, _ in PAIRS], 32, queries=True)
        queries, documents = start.eval()([asked, start.tokenise(TEXTS, 32)])
    assert record["measured"] == pytest.approx(random_saturation((queries @ documents.T).double().numpy()), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"query_pooling": "sum"}])
def test_the_length_of_queries_is_kept(options, bert_folder, tmp_path):
    splade = train(bert_folder, PAIRS, tmp_path / "out", query_max_length=5, **options, **FAST)
    text = TEXTS[4]
    cut = splade.encoder.tokenizer.decode(splade.encoder.tokenizer(text)["input_ids"][1:4])  # between [CLS] and [SEP]
    splade.save_pretrained(tmp_path / "again")
    for encoder in (splade, Splade(tmp_path / "again")):
        assert (encoder.encode_queries([text]) != encoder.encode_queries([cut])).nnz == 0
        assert (encoder.encode_docs([text]) != encoder.encode_docs([cut])).nnz > 0
