"""train(): numbers of the first step by hand, stock tools on the result, determinism, rescalings, dev, resume."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dense import by_sparse_encoder
from safetensors.torch import load_file, save_file
from scipy.special import logsumexp

from pyterrier_rescale import CollapseError, Splade, train
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.dev_evaluation import DevSet
from pyterrier_rescale.training.fit import Batches
from pyterrier_rescale.training.initialization import starting_module
from pyterrier_rescale.training.loading import load_rows
from pyterrier_rescale.training.losses import Objective
from pyterrier_rescale.training.model import SparseHead
from pyterrier_rescale.training.monitor import Monitor

PAIRS = [(" ".join(text.split()[:3]), text) for text in tiny.TEXTS]
FAST = {"batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "max_length": 32, "ramp_steps": 100, "verbose": False}


@pytest.fixture(scope="module")
def still_bert(tmp_path_factory):
    """A tiny BERT without dropout, so that a training step can be computed elsewhere, too."""
    return tiny.save(
        "bert", tmp_path_factory.mktemp("still"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def interrupt(monkeypatch, step, error=KeyboardInterrupt):
    """Let a run die before it makes a step."""
    look = Monitor.look

    def dying(self, number, *rest):
        if number == step:
            raise error
        return look(self, number, *rest)

    monkeypatch.setattr(Monitor, "look", dying)


def log_of(folder):
    with open(folder / "monitor.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_first_logged_step_by_hand(still_bert, tmp_path):
    options = {**FAST, "batch_size": 12, "max_steps": 1, "ramp_steps": 0}
    train(still_bert, PAIRS, tmp_path / "out", rescale=4.0, **options)
    start = Splade(still_bert, rescale=4.0, max_length=32)
    queries = start.encode_queries([query for query, _ in PAIRS]).toarray()
    documents = start.encode_docs([text for _, text in PAIRS]).toarray()
    scores = queries @ documents.T
    row = log_of(tmp_path / "out")[0]
    ranking = np.mean(logsumexp(scores, axis=1) - np.diag(scores))
    flops_q, flops_d = (np.square(x.mean(axis=0)).sum() for x in (queries, documents))
    assert row["ranking"] == pytest.approx(ranking, rel=1e-4)
    assert row["penalty_q"] == pytest.approx(flops_q, rel=1e-4)
    assert row["penalty_d"] == pytest.approx(flops_d, rel=1e-4)
    assert row["loss"] == pytest.approx(ranking + 5e-4 * flops_q + 3e-4 * flops_d, rel=1e-4)
    assert row["active_d"] == pytest.approx((documents > 0).sum(axis=1).mean(), rel=1e-4)


def test_gradient_equals_stock_sentence_transformers(still_bert, tmp_path):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss

    from pyterrier_rescale.encoding.description import Description
    from pyterrier_rescale.encoding.saved_folder import save_encoder
    from pyterrier_rescale.heads.checkpoint import load_backbone

    model, tokenizer = load_backbone(still_bert)
    save_encoder(tmp_path, model, tokenizer, Description(max_length=32))
    stock = SparseEncoder(str(tmp_path), device="cpu")
    loss = SpladeLoss(
        stock, SparseMultipleNegativesRankingLoss(stock), document_regularizer_weight=3e-3,
        query_regularizer_weight=5e-3,
    )  # fmt: skip
    negatives = [text for _, text in PAIRS[5:9]]
    columns = [[q for q, _ in PAIRS[:4]], [d for _, d in PAIRS[:4]], negatives]
    expected = sum(loss([stock.preprocess(column) for column in columns]).values())
    expected.backward()

    config = TrainConfig(lambda_q=5e-3, lambda_d=3e-3, ramp_steps=0, max_length=32)
    rows = load_rows([(*pair, negative) for pair, negative in zip(PAIRS[:4], negatives, strict=True)])
    module = SparseHead(model, tokenizer)
    sides, targets = Batches(rows, module, config, 1).collate(list(rows))
    got = Objective(config, module.vocab_size)(*module(sides), targets, 0)[0]
    got.backward()

    assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = {name: p.grad for name, p in stock[0].auto_model.named_parameters() if p.grad is not None}
    assert len(gradients) > 20
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_folder_loads_in_stock_tools(family, request, tmp_path):
    backbone = request.getfixturevalue(f"{family}_folder")
    splade = train(backbone, PAIRS, tmp_path / "out", rescale=4.0, **FAST)
    texts = [text for _, text in PAIRS]
    stock = by_sparse_encoder(tmp_path / "out", texts)[0]
    np.testing.assert_allclose(splade.encode_docs(texts).toarray(), stock, atol=1e-4)
    assert len(log_of(tmp_path / "out")) == 6
    assert json.loads((tmp_path / "out" / "train_config.json").read_text())["rescale"] == 4.0
    assert not list((tmp_path / "out").glob("*.pt"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "rescaled (arXiv:2606.18811, fixed, k = 4)" in card
    assert str(tmp_path.parent.parent) not in card  # no path of this machine


def test_run_learns_and_is_deterministic(bert_folder, tmp_path):
    options = {**FAST, "max_steps": 40, "learning_rate": 3e-3}
    with pytest.warns(UserWarning, match="ramp_steps=100 is more than the 40 steps"):
        train(bert_folder, PAIRS, tmp_path / "a", rescale=16.0, seed=3, **options)
    train(bert_folder, PAIRS, tmp_path / "b", rescale=16.0, seed=3, **options)
    train(bert_folder, PAIRS, tmp_path / "c", rescale=16.0, seed=4, **options)
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    rows = log_of(tmp_path / "a")
    assert np.mean([row["ranking"] for row in rows[-5:]]) < np.mean([row["ranking"] for row in rows[:5]])


def test_backbone_object_is_left_alone(tmp_path):
    model, tokenizer = tiny.build("modernbert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, rescale=8.0, **FAST)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_learned_k_is_folded(bert_folder, tmp_path):
    splade = train(bert_folder, PAIRS, tmp_path / "out", rescale="learned", scale_learning_rate=0.1, **FAST)
    record = json.loads((tmp_path / "out" / "config.json").read_text())["pyterrier_rescale"]
    rows = log_of(tmp_path / "out")
    assert record["method"] == "learned"
    assert record["k"] != pytest.approx(16.0, rel=1e-3)
    assert record["k"] == pytest.approx(rows[-1]["k"], rel=0.1)
    norm = torch.linalg.vector_norm(splade.encoder.head.weight.detach(), dim=1).mean()
    assert float(norm) == pytest.approx(rows[-1]["head_norm"], rel=0.1)


def test_gradient_accumulation_averages(still_bert, tmp_path):
    """Two micro-batches of four: the logged loss is their mean, and the ramp counts updates."""
    train(still_bert, PAIRS, tmp_path / "out", gradient_accumulation=3, **{**FAST, "max_steps": 2})
    rows = log_of(tmp_path / "out")
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["lambda_q"] for row in rows] == pytest.approx([0, 5e-4 * 0.01**2])


def test_bf16_and_gradient_checkpointing_keep_fp32_weights(bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", bf16=True, gradient_checkpointing=True, device="cpu", **FAST)
    assert {value.dtype for value in weights_of(tmp_path / "out").values()} == {torch.float32}


def test_regulariser_that_kills_all_terms(bert_folder, tmp_path):
    options = {**FAST, "max_steps": 400, "learning_rate": 1e-2, "lambda_q": 1e3, "lambda_d": 1e3, "ramp_steps": 60}
    with pytest.raises(CollapseError, match="lower lambda_q") as caught:
        train(bert_folder, PAIRS, tmp_path / "out", rescale=16.0, **options)
    assert caught.value.verdict == "zero"
    assert log_of(tmp_path / "out")[-1]["step"] == caught.value.step < 400


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, os.path.dirname({tests!r})]
import test_run, torch
torch.set_num_threads(1)
from pyterrier_rescale import train
from pyterrier_rescale.training.monitor import Monitor
look = Monitor.look
def die(self, step, *rest):
    if step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return look(self, step, *rest)
Monitor.look = die
train({backbone!r}, test_run.PAIRS, {out!r}, **test_run.LONG)
"""
LONG = {**FAST, "max_steps": 12, "save_steps": 5, "regularizer": "df_flops", "rescale": "learned"}


@pytest.fixture
def one_thread():
    """Sums over several threads differ in the last bit, which Adam makes visible within a few steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_and_resumed_equals_uninterrupted(bert_folder, tmp_path, one_thread):
    out = tmp_path / "out"
    script = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), backbone=bert_folder, out=str(out))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "modules.json").exists()
    assert len(log_of(out)) == 8
    (out / "checkpoint.new").write_bytes(b"died while it was written")
    train(bert_folder, PAIRS, out, **LONG)
    train(bert_folder, PAIRS, tmp_path / "whole", **LONG)
    resumed, whole = weights_of(out), weights_of(tmp_path / "whole")
    for name, value in whole.items():
        assert torch.equal(resumed[name], value)
    assert [row["step"] for row in log_of(out)] == list(range(1, 13))
    assert log_of(out)[-1]["loss"] == pytest.approx(log_of(tmp_path / "whole")[-1]["loss"], abs=1e-5)


@pytest.mark.parametrize("options", [{"rescale": "learned"}, {"queries": "static"}])
def test_best_state_on_dev_is_kept(options, bert_folder, tmp_path):
    documents, topics, qrels = dev_split()
    dev = documents, topics, pd.concat([qrels, qrels.assign(qid="never-" + qrels["qid"])])
    splade = train(bert_folder, PAIRS, tmp_path / "out", dev=dev, eval_steps=2, **options, **FAST)
    scores = pd.read_csv(tmp_path / "out" / "dev.csv")
    assert scores["step"].tolist() == [2, 4, 6]
    best = scores[scores["nDCG@10"] == scores["nDCG@10"].max()]["step"].iloc[-1]
    assert f"saved is the state after step {best}, " in (tmp_path / "out" / "README.md").read_text()
    # nDCG@10 with one relevant document is 1 / log2(1 + rank)
    dots = (splade.encode_queries(topics["query"].tolist()) @ splade.encode_docs([t for _, t in PAIRS]).T).toarray()
    ranks = [(row > row[i]).sum() + 1 if row[i] > 0 else 99 for i, row in enumerate(dots)]  # 0: not retrieved
    expected = np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks])
    assert scores["nDCG@10"].max() == pytest.approx(expected, abs=1e-4)


def dev_split(**changes):
    documents = [{"docno": str(i), "text": text} for i, (_, text) in enumerate(PAIRS)]
    topics = pd.DataFrame({"qid": [str(i) for i in range(12)], "query": [query for query, _ in PAIRS]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": topics["qid"], "label": 1})
    return tuple({"documents": documents, "topics": topics, "qrels": qrels, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda d, t, q: {"topics": t.assign(qid="q" + t["qid"])}, "judged queries are missing"),
        (lambda d, t, q: {"qrels": q.assign(label=0)}, "no topic with a relevant"),
    ],
)
def test_a_dev_split_on_which_nothing_can_be_seen_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DevSet(dev_split(**changes(*dev_split())))


def test_a_topic_of_dev_that_is_a_document_does_not_find_itself(bert_folder):
    """As ArguAna's: the first hit would be the query. Equal ids alone mean nothing."""
    documents, _, qrels = dev_split()
    topics = pd.DataFrame({"qid": qrels["qid"], "query": [document["text"] for document in documents]})
    judged = qrels.assign(docno=list(qrels["docno"][1:]) + ["0"])
    named = [{**document, "docno": f"d{document['docno']}"} for document in documents]
    module = starting_module(bert_folder, None, load_rows(PAIRS), TrainConfig(max_length=32)).eval()
    own = DevSet((documents, topics, judged))
    other = DevSet((named, topics, judged.assign(docno="d" + judged["docno"])))
    assert len(own.own) == 12 and not other.own and own.score(module) > other.score(module) > 0
    assert not DevSet(dev_split()).own


def test_an_encoder_keeps_what_it_is(modernbert_folder, tmp_path):
    """Trained further: static queries and their weights, lengths, lower-casing, activation."""
    options = {**FAST, "max_steps": 1, "learning_rate": 1e-12, "static_learning_rate": 1e-12}
    asked = {"queries": "static", "query_max_length": 9, "lowercase": True, "activation": "log1p_relu"}
    first = train(modernbert_folder, PAIRS, tmp_path / "a", **{**options, "static_learning_rate": 0.5}, **asked)
    del options["max_length"], options["verbose"]
    second = train(tmp_path / "a", PAIRS, tmp_path / "b", config=TrainConfig(**options))
    train(tmp_path / "a", PAIRS, tmp_path / "b", config=TrainConfig.from_json(tmp_path / "b" / "train_config.json"))
    assert (second.max_length, second.activation) == (32, "log1p_relu")
    texts = [*tiny.TEXTS, "SPARSE " * 30]
    for side in ("encode_queries", "encode_docs"):
        assert abs(getattr(first, side)(texts) - getattr(second, side)(texts)).max() < 1e-5
    assert (second.encode_docs(["SPARSE Cafe"]) != second.encode_docs(["sparse cafe"])).nnz == 0
    weights = tmp_path / "a" / "query_0_SparseStaticEmbedding" / "model.safetensors"
    save_file({"weight": load_file(weights)["weight"] * 2}, weights)
    with pytest.raises(ValueError, match="backbone was"):
        train(tmp_path / "a", PAIRS, tmp_path / "b", **options)


def test_steps_are_reported_to_a_tracker(bert_folder, tmp_path, monkeypatch):
    from accelerate import tracking

    told = []
    fake = SimpleNamespace(
        start=lambda: None, finish=lambda: told.append("the end"), log=lambda values, step: told.append(step)
    )
    kind = mock.Mock(return_value=fake, requires_logging_directory=True)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", kind)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["trackio"])
    train(bert_folder, PAIRS, tmp_path / "out", report_to="trackio", log_steps=5, **FAST)
    kind.assert_called_once_with("out", logging_dir=tmp_path / "out" / "runs")
    assert told == [1, 5, 6, "the end"] and [row["step"] for row in log_of(tmp_path / "out")] == [1, 5, 6]
