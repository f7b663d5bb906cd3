"""Queries encoded otherwise than documents: trained, saved, and the same vectors in stock sentence-transformers."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from pyterrier_rescale.encoding.query_encoder import StaticEncoder
from pyterrier_rescale.encoding.saved_settings import saved_settings
from pyterrier_rescale.training.data.loading import load_rows
from test_run import FAST, PAIRS, log_of

from pyterrier_rescale import Splade, audit, train
from pyterrier_rescale.analysis.head_statistics import random_saturation
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.initialization import idf_weights, starting_module
from pyterrier_rescale.training.model import SparseHead

QUERIES = [query for query, _ in PAIRS] + ["Sparse sparse SPARSE [SEP] café", "x " * 60, tiny.TEXTS[4]]
TEXTS = [text for _, text in PAIRS]


def stock(folder):
    """Queries and documents as sentence-transformers encodes them."""
    from sentence_transformers import SparseEncoder

    encoder = SparseEncoder(str(folder), device="cpu")
    options = {"convert_to_sparse_tensor": False}
    return encoder.encode_query(QUERIES, **options).numpy(), encoder.encode_document(TEXTS, **options).numpy()


def check_same(splade, folder):
    queries, documents = stock(folder)
    np.testing.assert_allclose(splade.encode_queries(QUERIES).toarray(), queries, atol=1e-4)
    np.testing.assert_allclose(splade.encode_docs(TEXTS).toarray(), documents, atol=1e-4)


def check_masked_lm(splade, folder):
    """AutoModelForMaskedLM loads the documents' model from the same folder."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS[:1], return_tensors="pt")).logits[0]
    expected = torch.log1p(torch.relu(logits.amax(dim=0))).numpy()
    np.testing.assert_allclose(splade.encode_docs(TEXTS[:1]).toarray()[0], expected, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert"])  # the latter has padding rows in its head
def test_static_queries(family, request, tmp_path):
    backbone = request.getfixturevalue(f"{family}_folder")
    splade = train(
        backbone, PAIRS, tmp_path / "out", rescale=4.0, queries="static", query_max_length=24, static_learning_rate=0.1,
        **FAST,
    )  # fmt: skip
    assert isinstance(splade.queries_encoder, StaticEncoder) and splade.queries_encoder.max_length == 24
    check_same(splade, tmp_path / "out")
    check_masked_lm(splade, tmp_path / "out")
    rows = log_of(tmp_path / "out")
    assert {row["penalty_q"] for row in rows} == {row["lambda_q"] for row in rows} == {0.0}
    assert rows[-1]["lambda_d"] > 0
    model, tokenizer = load_backbone(backbone)
    start = idf_weights(load_rows(PAIRS), tokenizer, splade.encoder.vocab_size, max_length=32).numpy()
    moved = splade.query_side.weights != start
    assert moved.any() and not moved.all()  # tokens that no query has keep their IDF
    assert (splade.query_side.weights >= 0).all()

    splade.save_pretrained(tmp_path / "again")
    again = Splade(tmp_path / "again")
    assert (again.encode_queries(QUERIES) != splade.encode_queries(QUERIES)).nnz == 0
    check_same(again, tmp_path / "again")


def test_static_queries_in_pipelines(bert_folder, tmp_path):
    splade = train(bert_folder, PAIRS, tmp_path / "out", queries="static", **FAST)
    weights, tokenizer = splade.query_side.weights, splade.encoder.tokenizer
    frame = pd.DataFrame({"qid": ["1", "2"], "query": ["sparse queries sparse", " "]})
    toks = splade.query_encoder(terms="raw")(frame)["query_toks"]
    ids = set(tokenizer("sparse queries", add_special_tokens=False)["input_ids"])
    assert toks[0] == pytest.approx({tokenizer.convert_ids_to_tokens(i): weights[i] for i in ids}) and toks[1] == {}
    results = frame[:1].assign(docno="a", text=TEXTS[4], score=0.0, rank=0)
    document = splade.encode_docs([TEXTS[4]])
    expected = sum(weights[i] * document[0, i] for i in ids)
    assert splade.scorer()(results)["score"][0] == pytest.approx(expected, rel=1e-5)
    other = tiny.save("modernbert", tmp_path / "other")
    with pytest.raises(ValueError, match="static query weights must be"):
        splade.query_side.encoder(Splade(other).encoder)


def test_idf_by_hand(bert_folder):
    _, tokenizer = load_backbone(bert_folder)
    rows = load_rows([("q", "the the index"), ("r", "the query"), ("s", "the query")])  # two different documents
    idf = idf_weights(rows, tokenizer, 400, max_length=32)
    the, absent = tokenizer.convert_tokens_to_ids(["the", "vocabulary"])
    assert float(idf[the]) == pytest.approx(np.log(1 + 0.5 / 2.5))
    assert float(idf[absent]) == pytest.approx(np.log(1 + 2.5 / 0.5))
    assert float(idf[tokenizer.sep_token_id]) == 0.0


def test_static_module_equals_the_encoder(bert_folder):
    """In training as in use; two copies of a token count once, and a negative weight is no weight."""
    config = TrainConfig(queries="static", max_length=32)
    module = starting_module(bert_folder, None, load_rows(PAIRS), config)
    with torch.no_grad():
        module.query_weights[::3] = -1.0
    features = module.tokenise(QUERIES, 32, queries=True)
    got = module({**features, "queries": True})["sentence_embedding"].detach().numpy()
    expected = module.query_side().encoder(Splade(bert_folder, max_length=32).encoder).encode(QUERIES)
    np.testing.assert_allclose(got, expected.toarray(), atol=1e-6)
    empty = module({**module.tokenise([""], 32, queries=True), "queries": True})["sentence_embedding"]
    assert empty.shape == got[:1].shape and not empty.any()


@pytest.mark.parametrize(("pooling", "query_pooling"), [("max", "sum"), ("sum", "max")])
def test_query_pooling(pooling, query_pooling, bert_folder, tmp_path):
    out = tmp_path / "out"
    splade = train(bert_folder, PAIRS, out, rescale=4.0, pooling=pooling, query_pooling=query_pooling, **FAST)
    assert (splade.pooling, splade.query_side.pooling) == (pooling, query_pooling)
    assert abs(splade.encode_queries(TEXTS) - splade.encode_docs(TEXTS)).max() > 0.1
    check_same(splade, out)
    splade.save_pretrained(tmp_path / "again")
    check_same(Splade(tmp_path / "again"), tmp_path / "again")
    clone = Splade(out, pooling=splade.pooling, max_length=splade.max_length)
    assert (clone.encode_queries(QUERIES) != splade.encode_queries(QUERIES)).nnz == 0
    card = (out / "README.md").read_text()
    assert f"Documents are pooled by `{pooling}`, queries by `{query_pooling}`." in card


def test_query_pooling_in_training_is_that_of_the_encoder(bert_folder):
    model, tokenizer = load_backbone(bert_folder)
    module = SparseHead(model, tokenizer, query_pooling="sum", max_length=32).eval()
    got = module({**module.tokenise(TEXTS, 32, queries=True), "queries": True})["sentence_embedding"].detach().numpy()
    expected = Splade(bert_folder, pooling="sum", max_length=32).encode_queries(TEXTS).toarray()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_same_pooling_keeps_the_plain_layout(bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", query_pooling="max", **FAST)
    assert "queries" not in saved_settings(tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "modules.json").read_text())) == 2


def test_dev_scores_are_those_of_the_saved_encoder(bert_folder, tmp_path):
    documents = [{"docno": str(i), "text": text} for i, text in enumerate(TEXTS)]
    topics = pd.DataFrame({"qid": [str(i) for i in range(12)], "query": [query for query, _ in PAIRS]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": topics["qid"], "label": 1})
    splade = train(
        bert_folder, PAIRS, tmp_path / "out", dev=(documents, topics, qrels), eval_steps=6, queries="static", **FAST
    )
    dots = (splade.encode_queries(topics["query"].tolist()) @ splade.encode_docs(TEXTS).T).toarray()
    ranks = [(row > row[i]).sum() + 1 if row[i] > 0 else 99 for i, row in enumerate(dots)]  # 0: not retrieved
    expected = np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks])
    assert pd.read_csv(tmp_path / "out" / "dev.csv")["nDCG@10"].max() == pytest.approx(expected, abs=1e-4)


def test_resumed_static_queries_equal_uninterrupted_ones(bert_folder, tmp_path, monkeypatch):
    from pyterrier_rescale.training.callbacks import Bookkeeper

    options = {**FAST, "queries": "static", "static_learning_rate": 0.1, "save_steps": 2, "seed": 1}
    whole = train(bert_folder, PAIRS, tmp_path / "whole", **options)
    step = Bookkeeper.on_pre_optimizer_step

    def interrupted(self, args, state, control, **rest):
        if state.global_step == 5:
            raise KeyboardInterrupt
        step(self, args, state, control, **rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bookkeeper, "on_pre_optimizer_step", interrupted)
        train(bert_folder, PAIRS, tmp_path / "out", **options)
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-4" / "complete").exists()
    resumed = train(bert_folder, PAIRS, tmp_path / "out", resume=True, **options)
    np.testing.assert_allclose(resumed.query_side.weights, whole.query_side.weights, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "idf"}, "queries must be one of model, static, got 'idf'"),
        ({"query_pooling": "mean"}, "query_pooling must be one of max, sum, got 'mean'"),
        ({"queries": "static", "query_pooling": "sum"}, "query_pooling must be None for queries='static'"),
        ({"queries": "static", "query_regularizer": "l1"}, "query_regularizer must be None for queries='static'"),
        ({"static_learning_rate": 0}, "static_learning_rate must be a finite number > 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_a_sum_that_no_k_mends_is_refused(bert_folder, tmp_path):
    """The bias is kept, and at every position adds up: the message names what shifts it."""
    with pytest.raises(ValueError, match="no k between .* shift it .*rescale='calibrated'"):
        train(bert_folder, PAIRS, tmp_path / "out", rescale="auto", pooling="sum", **FAST)
    assert train(bert_folder, PAIRS, tmp_path / "out", rescale="calibrated", pooling="sum", **FAST).pooling == "sum"
    told = audit(bert_folder, PAIRS, max_length=32, encoding={"pooling": "sum"})  # which only measures, and says so
    assert math.isnan(told.suggested_k) and "the bias gives most of it, which k does not divide" in told.verdict
    assert math.isnan(told.to_frame()["suggested_k"][0])


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
        asked = {**start.tokenise([query for query, _ in PAIRS], 32, queries=True), "queries": True}
        queries, documents = start.eval()({"sides": [asked, start.tokenise(TEXTS, 32)]})["sentence_embeddings"]
    assert record["measured"] == pytest.approx(random_saturation((queries @ documents.T).double().numpy()), rel=1e-3)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "both sides encoded as in training" in card


@pytest.mark.parametrize("options", [{}, {"query_pooling": "sum"}])
def test_the_length_of_queries_is_kept(options, bert_folder, tmp_path):
    splade = train(bert_folder, PAIRS, tmp_path / "out", query_max_length=5, **options, **FAST)
    text = TEXTS[4]
    cut = splade.encoder.tokenizer.decode(splade.encoder.tokenizer(text)["input_ids"][1:4])  # between [CLS] and [SEP]
    splade.save_pretrained(tmp_path / "again")
    for encoder in (splade, Splade(tmp_path / "again")):
        assert (encoder.encode_queries([text]) != encoder.encode_queries([cut])).nnz == 0
        assert (encoder.encode_docs([text]) != encoder.encode_docs([cut])).nnz > 0
    from sentence_transformers import SparseEncoder

    SparseEncoder(str(tmp_path / "again")).encode_query([text])  # loads, and cuts queries as documents


def test_foreign_routes_are_refused(bert_folder, tmp_path):
    out = tmp_path / "out"
    train(bert_folder, PAIRS, out, query_pooling="sum", **FAST)
    router = json.loads((out / "router_config.json").read_text())
    router["structure"]["query"] = ["query_0_Transformer"]
    (out / "router_config.json").write_text(json.dumps(router))
    with pytest.raises(ValueError, match="which Splade cannot follow"):
        Splade(out)
