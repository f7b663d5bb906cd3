"""train(): numbers of the first step by hand, stock tools on the result, determinism, resume, rescalings."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tiny
import torch
from pyterrier_rescale.training.data.loading import load_rows
from pyterrier_rescale.training.trainer import Collator
from scipy.special import logsumexp

from pyterrier_rescale import CollapseError, Splade, train
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.losses import Objective
from pyterrier_rescale.training.model import SparseHead

PAIRS = [(" ".join(text.split()[:3]), text) for text in tiny.TEXTS]
FAST = {"batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "max_length": 32, "ramp_steps": 100, "verbose": False}


@pytest.fixture(scope="module")
def still_bert(tmp_path_factory):
    """A tiny BERT without dropout, so that a training step can be computed elsewhere, too."""
    return tiny.save(
        "bert", tmp_path_factory.mktemp("still"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def log_of(folder):
    with open(folder / "monitor.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_first_logged_step_by_hand(still_bert, tmp_path):
    options = {**FAST, "batch_size": 12, "max_steps": 1, "ramp_steps": 0}
    with pytest.warns(UserWarning, match="ramp_steps=0 brings"):
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
    from pyterrier_rescale.encoding.model_folder import save_encoder
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss

    from pyterrier_rescale.heads.checkpoint import load_backbone

    model, tokenizer = load_backbone(still_bert)
    save_encoder(tmp_path, model, tokenizer, pooling="max", max_length=32)
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
    ours = SparseHead(model, tokenizer, max_length=32)
    rows = load_rows([(*pair, negative) for pair, negative in zip(PAIRS[:4], negatives, strict=True)])
    collate = Collator(rows, ours, negatives=1, max_length=32, query_max_length=32)
    objective = Objective(ours, config, 400)
    got = objective(ours, collate(list(rows)), step=0)
    got.backward()

    assert float(got.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = {name: p.grad for name, p in stock[0].auto_model.named_parameters() if p.grad is not None}
    assert len(gradients) > 20
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_grad_cache_gives_the_same_gradient(still_bert):
    from pyterrier_rescale.heads.checkpoint import load_backbone

    gradients = []
    for size in (None, 3):
        model, tokenizer = load_backbone(still_bert)
        module = SparseHead(model, tokenizer, max_length=32)
        collate = Collator(load_rows(PAIRS), module, negatives=0, max_length=32, query_max_length=32)
        objective = Objective(module, TrainConfig(mini_batch_size=size, ramp_steps=0), 400)
        objective(module, collate(list(load_rows(PAIRS))), step=0).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_folder_loads_in_stock_tools(family, request, tmp_path):
    from sentence_transformers import SparseEncoder

    backbone = request.getfixturevalue(f"{family}_folder")
    splade = train(backbone, PAIRS, tmp_path / "out", rescale=4.0, **FAST)
    texts = [text for _, text in PAIRS]
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu").encode(texts, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(splade.encode_docs(texts).toarray(), stock.numpy(), atol=1e-4)
    assert len(log_of(tmp_path / "out")) == 6
    assert json.loads((tmp_path / "out" / "train_config.json").read_text())["rescale"] == 4.0
    assert not (tmp_path / "out" / "checkpoints").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "rescaled (arXiv:2606.18811, fixed, k = 4)" in card
    assert "12 rows of a query and 1 document(s)." in card
    assert str(tmp_path.parent.parent) not in card  # no path of this machine


def test_run_learns_and_is_deterministic(bert_folder, tmp_path):
    options = {**FAST, "max_steps": 40, "learning_rate": 3e-3}
    for name in "ab":
        train(bert_folder, PAIRS, tmp_path / name, rescale=16.0, seed=3, **options)
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


@pytest.mark.parametrize("how", ["auto", "calibrated"])
def test_measured_rescalings(how, bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", rescale=how, **FAST)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pyterrier_rescale"]["method"] == how


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_distillation(loss, bert_folder, tmp_path):
    rows = [(q, d, PAIRS[i - 1][1], [3.0, 1.0]) for i, (q, d) in enumerate(PAIRS)]
    train(bert_folder, rows, tmp_path / "out", loss=loss, **FAST)
    with pytest.raises(ValueError, match="row 0 of data has none"):
        train(bert_folder, [row[:3] for row in rows], tmp_path / "no", loss=loss, **FAST)


def test_gradient_accumulation_averages(still_bert, tmp_path):
    """Two micro-batches of four: the logged loss is their mean, and the ramp counts updates."""
    train(still_bert, PAIRS, tmp_path / "out", gradient_accumulation=3, **{**FAST, "max_steps": 2})
    rows = log_of(tmp_path / "out")
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["lambda_q"] for row in rows] == pytest.approx([0, 5e-4 * 0.01**2])


def test_bf16_keeps_fp32_weights(bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", bf16=True, device="cpu", **FAST)
    assert {value.dtype for value in weights_of(tmp_path / "out").values()} == {torch.float32}
    train(bert_folder, PAIRS, tmp_path / "after", device="cpu", **FAST)
    assert "bf16" not in os.environ.get("ACCELERATE_MIXED_PRECISION", "")


def test_nan_stops_before_the_weights_are_lost(bert_folder, tmp_path, monkeypatch):
    forward, calls = SparseHead.forward, []

    def poisoned(self, features, **rest):
        calls.append(self)
        features = forward(self, features, **rest)
        if len(calls) == 3:
            queries, documents = features["sentence_embeddings"]
            features["sentence_embeddings"] = [queries * float("nan"), documents]
        return features

    monkeypatch.setattr(SparseHead, "forward", poisoned)
    with pytest.raises(CollapseError, match="step 3: not finite: ranking") as caught:
        train(bert_folder, PAIRS, tmp_path / "out", **FAST)
    assert (caught.value.verdict, caught.value.step) == ("nan", 3)
    assert all(torch.isfinite(parameter).all() for parameter in calls[0].parameters())
    assert not (tmp_path / "out" / "modules.json").exists()
    assert [row["finite"] for row in log_of(tmp_path / "out")] == [1, 1, 0]


def test_regulariser_that_kills_all_terms(bert_folder, tmp_path):
    options = {**FAST, "max_steps": 400, "learning_rate": 1e-2, "lambda_q": 1e3, "lambda_d": 1e3, "ramp_steps": 60}
    with pytest.raises(CollapseError, match="lower lambda_q") as caught:
        train(bert_folder, PAIRS, tmp_path / "out", rescale=16.0, **options)
    assert caught.value.verdict == "zero"
    rows = log_of(tmp_path / "out")
    assert rows[-1]["step"] == caught.value.step < 400
    assert min(rows[-1]["active_q"], rows[-1]["active_d"]) < 1


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, os.path.dirname({tests!r})]
import test_run, torch
torch.set_num_threads(1)
from pyterrier_rescale import train
from pyterrier_rescale.training.callbacks import Bookkeeper
end = Bookkeeper.on_step_end
def die(self, args, state, control, **rest):
    end(self, args, state, control, **rest)
    if state.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
Bookkeeper.on_step_end = die
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
    broken = out / "checkpoints" / "checkpoint-7"  # died while it was written
    broken.mkdir()
    with pytest.raises(FileExistsError, match="resume=True goes on with it"):
        train(bert_folder, PAIRS, out, **LONG)
    with pytest.raises(ValueError, match="seed=1 instead of 0"):
        train(bert_folder, PAIRS, out, resume=True, **LONG, seed=1)
    train(bert_folder, PAIRS, out, resume=True, **LONG)
    train(bert_folder, PAIRS, tmp_path / "whole", **LONG)
    resumed, whole = weights_of(out), weights_of(tmp_path / "whole")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-5)
    assert [row["step"] for row in log_of(out)] == list(range(1, 13))
    assert log_of(out)[-1]["loss"] == pytest.approx(log_of(tmp_path / "whole")[-1]["loss"], abs=1e-5)


def test_resume_of_a_finished_or_unbegun_run(bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", resume=True, **FAST)
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    train(bert_folder, PAIRS, tmp_path / "out", resume=True, **FAST)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    train(bert_folder, PAIRS, tmp_path / "out", overwrite=True, **FAST)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns != before


def test_best_state_on_dev_is_kept(bert_folder, tmp_path):
    import pandas as pd

    documents = [{"docno": str(i), "text": text} for i, (_, text) in enumerate(PAIRS)]
    topics = pd.DataFrame({"qid": [str(i) for i in range(12)], "query": [query for query, _ in PAIRS]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": topics["qid"], "label": 1})
    splade = train(
        bert_folder, PAIRS, tmp_path / "out", dev=(documents, topics, qrels), eval_steps=2, rescale="learned", **FAST
    )
    scores = pd.read_csv(tmp_path / "out" / "dev.csv")
    assert scores["step"].tolist() == [2, 4, 6]
    # nDCG@10 with one relevant document is 1 / log2(1 + rank)
    dots = (splade.encode_queries(topics["query"].tolist()) @ splade.encode_docs([t for _, t in PAIRS]).T).toarray()
    ranks = [(row > row[i]).sum() + 1 for i, row in enumerate(dots)]
    expected = np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks])
    assert scores["nDCG@10"].max() == pytest.approx(expected, abs=1e-4)


def test_steps_between_evaluations_without_a_dev_split_are_refused(bert_folder, tmp_path):
    with pytest.raises(ValueError, match="eval_steps=5 goes with dev"):
        train(bert_folder, PAIRS, tmp_path / "out", eval_steps=5, **FAST)
    assert not (tmp_path / "out").exists()


def dev_split(**changes):
    import pandas as pd

    documents = [{"docno": str(i), "text": text} for i, (_, text) in enumerate(PAIRS)]
    topics = pd.DataFrame({"qid": [str(i) for i in range(12)], "query": [query for query, _ in PAIRS]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": topics["qid"], "label": 1})
    return tuple({"documents": documents, "topics": topics, "qrels": qrels, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda d, t, q: {"topics": t.assign(qid="q" + t["qid"])}, "no topic with a relevant document .*'q0'"),
        (lambda d, t, q: {"documents": [{**x, "docno": f"d{x['docno']}"} for x in d]}, "the first document 'd0'"),
        (lambda d, t, q: {"qrels": q.assign(label=0)}, "the first relevant pair is none"),
        (lambda d, t, q: {"documents": [{"docno": "0", "text": None}]}, "document '0' must be a string, got None"),
        (lambda d, t, q: {"topics": t.assign(query=None)}, "text of topic '0' must be a string"),
        (lambda d, t, q: {"documents": [{"docno": "0", "text": "half \ud83d"}]}, "document '0' holds a lone surrogate"),
        (lambda d, t, q: {"topics": t.assign(qid=float("nan"))}, "topics must each have a qid, got nan"),
    ],
)
def test_a_dev_split_on_which_nothing_can_be_seen_is_refused(changes, message, bert_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(bert_folder, PAIRS, tmp_path / "out", dev=dev_split(**changes(*dev_split())), **FAST)


def test_ids_of_a_dev_split_that_frames_made_floats(bert_folder):
    from pyterrier_rescale.training.dev_evaluation import DevSet

    documents, topics, qrels = dev_split()
    floats = qrels.assign(qid=qrels["qid"].astype(float), docno=qrels["docno"].astype(int))
    dev = DevSet((documents, topics, floats))
    assert dev.fingerprint == DevSet((documents, topics, qrels)).fingerprint


@pytest.mark.parametrize(
    ("options", "message"), [({"seed": 2**40}, "seed must be below"), ({"report_to": "tensorbord"}, "tensorbord")]
)
def test_what_the_trainer_would_refuse_leaves_the_encoder_that_is_there(options, message, bert_folder, tmp_path):
    Splade(bert_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(bert_folder, PAIRS, tmp_path, overwrite=True, **{**FAST, **options})
    assert (tmp_path / "modules.json").exists() and not (tmp_path / "train_config.json").exists()


def test_a_frozen_backbone_is_refused():
    model, tokenizer = tiny.build("bert")
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        train(model.requires_grad_(False), PAIRS, "never", tokenizer=tokenizer, **FAST)
    assert not os.path.exists("never/train_config.json")


def test_training_goes_on_as_its_encoder_was_saved(bert_folder, tmp_path):
    Splade(bert_folder, pooling="sum", position_top_k=5, rescale=40.0).save_pretrained(tmp_path / "a")
    settings = {"rescale": None, **{name: value for name, value in FAST.items() if name != "rescale"}}
    splade = train(tmp_path / "a", PAIRS, tmp_path / "b", **settings)
    assert (splade.pooling, splade.position_top_k) == ("sum", 5)
    splade = train(tmp_path / "a", PAIRS, tmp_path / "c", pooling="max", **settings)
    assert (splade.pooling, splade.position_top_k) == ("max", 5)
    splade = train(tmp_path / "a", PAIRS, tmp_path / "d", config=TrainConfig(), **settings)
    assert (splade.pooling, splade.position_top_k) == ("max", None)


def test_an_encoder_that_is_trained_anew_is_none_until_it_is_whole(bert_folder, tmp_path, monkeypatch):
    from pyterrier_rescale.training import run

    train(bert_folder, PAIRS, tmp_path, pooling="sum", rescale="calibrated", **FAST)
    with monkeypatch.context() as patched:
        patched.setattr(run, "_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(bert_folder, PAIRS, tmp_path, overwrite=True, **FAST)
    with pytest.raises(ValueError, match="no whole encoder"):
        Splade(tmp_path)
    assert train(bert_folder, PAIRS, tmp_path, resume=True, **FAST).pooling == "max"
    assert Splade(tmp_path).pooling == "max" and not (tmp_path / ".unfinished").exists()
