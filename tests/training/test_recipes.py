"""Recipes: joint losses and the l0 mask by their formulas, presets, a teacher's scores, mined negatives, adapters."""

from __future__ import annotations

import warnings

import numpy as np
import pyterrier as pt
import pytest
import tiny
import torch
from test_run import FAST, PAIRS, interrupt, log_of, weights_of
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from pyterrier_rescale import Splade, train
from pyterrier_rescale._utils.made_from import alone
from pyterrier_rescale.training import score, teacher
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.loading import load_rows
from pyterrier_rescale.training.losses import LOSSES, Objective, Targets
from pyterrier_rescale.training.negatives import mine_negatives
from pyterrier_rescale.training.recipes import RECIPES
from pyterrier_rescale.training.rows import Row, fitting_rows, text_id

SCORED = [(q, d, *(PAIRS[i - n][1] for n in range(1, 9)), [9.0, *range(8)]) for i, (q, d) in enumerate(PAIRS)]


@pytest.fixture
def batch():
    """Vectors of three queries and of their two documents each, of 4 to 16 active terms, and what is known of them."""
    generator = np.random.default_rng(0)
    queries, documents = (np.maximum(generator.normal(size=(n, 20)), 0) for n in (3, 6))
    documents[::2, 4:] = 0
    scores = torch.tensor([[3.0, 1.0], [2.0, 2.5], [0.0, -1.0]])
    targets = Targets(torch.tensor([[0], [2], [4]]), torch.arange(6), scores)
    return torch.tensor(queries), torch.tensor(documents), targets


def test_joint_losses_are_the_weighted_sum(batch):
    config = TrainConfig(loss=["kl", "margin_mse"], loss_weights=[1, 0.05], temperature=2.0, lambda_q=0, lambda_d=0)
    assert TrainConfig.from_dict(config.to_dict()) == config
    expected = LOSSES["kl"](2.0)(*batch) + 0.05 * LOSSES["margin_mse"](2.0)(*batch)
    assert float(Objective(config, 20)(*batch, 0)[0]) == pytest.approx(float(expected))
    alone = Objective(TrainConfig(loss=("infonce", "kl"), lambda_q=0, lambda_d=0), 20)(*batch, 0)[0]
    assert float(alone) == pytest.approx(float(LOSSES["infonce"]()(*batch) + LOSSES["kl"]()(*batch)))


@pytest.mark.parametrize(("threshold", "kept"), [(None, range(6)), (0, range(6)), (4, [1, 3, 5]), (20, [])])
def test_documents_with_few_terms_are_not_penalised(batch, threshold, kept):
    """sum_v (1/N sum over the documents with more than the threshold's terms of x_iv)^2 (arXiv:2504.14839)."""
    queries, documents, targets = batch
    documents.requires_grad_()
    config = TrainConfig(flops_threshold=threshold, lambda_q=0, lambda_d=1, ramp_steps=0)
    parts = Objective(config, 20)(queries, documents, targets, 0)[1]
    x = documents.detach().numpy()
    assert float(parts.losses[2]) == pytest.approx(np.square(x[list(kept)].sum(axis=0) / 6).sum(), rel=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_and_are_told(name, modernbert_folder, tmp_path):
    expected = {**RECIPES[name].options, **FAST, "shift": None}
    splade = train(modernbert_folder, SCORED, tmp_path, recipe=name, shift=None, monitor="warn", **FAST)
    kept = TrainConfig.from_json(tmp_path / "train_config.json").to_dict()
    assert all(kept[option] == value for option, value in expected.items() if option != "verbose")
    card = (tmp_path / "README.md").read_text()
    assert f"Recipe `{name}`" in card and RECIPES[name].source in card and RECIPES[name].missing in card
    assert "loss=('kl', 'margin_mse')" in card or name != "splade-v3"
    assert splade.activation == kept["activation"] and len(log_of(tmp_path)) == 6


def test_attention_of_a_language_model_is_trained_and_saved(tmp_path):
    model, tokenizer = tiny.qwen()
    causal, both = (
        train(model, PAIRS, tmp_path / name, tokenizer=tokenizer, attention=name, rescale="calibrated", **FAST)
        for name in ("causal", "bidirectional")
    )
    assert [getattr(one.encoder.model.config, "is_causal", True) for one in (causal, both)] == [True, False]
    again = Splade(tmp_path / "bidirectional")
    assert (again.encode_docs(tiny.TEXTS) != both.encode_docs(tiny.TEXTS)).nnz == 0
    assert abs(causal.encode_docs(tiny.TEXTS) - both.encode_docs(tiny.TEXTS)).max() > 0.01


@pytest.fixture
def cross_encoder(tmp_path_factory):
    """The folder of a tiny BERT with one output."""
    folder = tmp_path_factory.mktemp("cross")
    model, tokenizer = tiny.build("bert")
    torch.manual_seed(0)
    model.config.num_labels = 1
    BertForSequenceClassification(model.config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_teacher_scores_each_pair_once_and_goes_on(cross_encoder, tmp_path, monkeypatch):
    """Against the classifier, pair by pair; killed in the middle of a line."""
    monkeypatch.setattr(teacher, "_PAIRS", 6)
    triples = [(q, d, PAIRS[i - 1][1]) for i, (q, d) in enumerate(PAIRS)]
    file = score(triples, cross_encoder, tmp_path / "out", verbose=False)
    rows = load_rows(tmp_path / "out")
    assert [(row.query, *row.documents) for row in rows] == triples
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    for row in rows:
        for text, found in zip(row.documents, row.scores, strict=True):
            expected = model(**tokenizer(row.query, text, return_tensors="pt", truncation=True, max_length=64)).logits
            assert found == pytest.approx(float(expected.detach()), abs=1e-5)
    with alone(tmp_path / "out"), pytest.raises(RuntimeError, match="another process is writing at"):
        score(triples, cross_encoder, tmp_path / "out", overwrite=True)
    whole = file.read_bytes()
    file.unlink()
    (tmp_path / "out" / "unfinished.jsonl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileNotFoundError):
        load_rows(tmp_path / "out")  # half of the rows are no data
    asked = []
    stage = pt.apply.generic(lambda pairs: asked.extend(pairs["query"]) or pairs.assign(score=1.0))
    known = teacher._teacher(cross_encoder)[1]
    monkeypatch.setattr(teacher, "_teacher", lambda name: (stage, known))
    lines = score(triples, cross_encoder, tmp_path / "out", verbose=False).read_text().splitlines()
    kept = whole[: len(whole) // 2].decode().count("\n")
    assert lines[:kept] == whole.decode().splitlines()[:kept] and len(lines) == 12
    assert len(asked) == 2 * (12 - kept) > 0
    assert score(triples, cross_encoder, tmp_path / "out").exists() and len(asked) == 2 * (12 - kept)
    monkeypatch.undo()
    torch.nn.init.ones_(model.classifier.weight)
    model.save_pretrained(cross_encoder)  # another teacher in the same folder
    with pytest.raises(ValueError, match="made from other inputs: scorer was .*, now "):
        score(triples, cross_encoder, tmp_path / "out")
    with pytest.raises(ValueError, match="negatives must be at least 1, as row 0 of data has none"):
        score(PAIRS, cross_encoder, tmp_path / "new")
    with pytest.raises(FileNotFoundError, match="scorer folder '/no/such' does not exist"):
        score(triples, "/no/such", tmp_path / "new")
    assert not (tmp_path / "new").exists(), "a mistyped scorer claims no folder"


def test_teachers_are_told_apart_by_their_weights_else_a_warning_says_so(bert_folder, tmp_path):
    triples = [(q, d, "n") for q, d in PAIRS]
    score(triples, Splade(bert_folder).scorer(), tmp_path / "a", verbose=False)
    with pytest.raises(ValueError, match="made from other inputs: scorer was"):
        score(triples, Splade(bert_folder, rescale=2).scorer(), tmp_path / "a")
    mined = {"negatives": 1, "retriever": pt.apply.generic(lambda q: q.assign(docno="x", text="t", rank=0, score=1.0))}
    for warned in (0, 1):
        for name, scorer, options in (("b", pt.apply.doc_score(len), {}), ("c", bert_folder, mined)):
            with warnings.catch_warnings(record=True) as caught:
                score(triples, scorer, tmp_path / name, verbose=False, **options)
            assert sum("which has no fingerprint" in str(one.message) for one in caught) == warned


def test_false_negatives_by_the_teachers_margin():
    rows = load_rows([("q", "d", "a", "b", "c", [5.0, 4.5, 4.0, 1.0]), ("r", "e", "a", "b", "c", [1.0, 9.0, 9.0, 0.0])])
    config = {"batch_size": 2, "negative_margin": 1.0}
    kept, used = fitting_rows(rows, TrainConfig(**config))
    assert list(kept) == [Row("q", ("d", "b", "c"), (5.0, 4.0, 1.0)), Row("r", ("e", "c"), (1.0, 0.0))] and used == 1
    assert kept.no_negatives("q") == {text_id(text) for text in "qda"}, "nor of another row"
    with pytest.warns(UserWarning, match="leaves 1 of 2 rows"), pytest.raises(ValueError, match="batch_size .* most 1"):
        fitting_rows(rows, TrainConfig(negatives=2, **config))
    with pytest.raises(ValueError, match="negative_margin needs teacher scores, and row 0"):
        fitting_rows(load_rows([("q", "d", "n")] * 2), TrainConfig(**config))


def test_negatives_by_an_encoder_or_any_retriever(bert_folder, tmp_path):
    splade = Splade(bert_folder)
    rows = load_rows(PAIRS)
    scores = (splade.encode_queries([q for q, _ in PAIRS]) @ splade.encode_docs([d for _, d in PAIRS]).T).toarray()
    np.fill_diagonal(scores, -1)
    best = [PAIRS[place][1] for place in scores.argmax(axis=1)]
    assert [row.documents[1] for row in mine_negatives(rows, 1, retriever=splade)] == best
    other = pt.apply.generic(lambda topics: topics.assign(docno="x", text="from elsewhere", rank=0, score=1.0))
    assert {row.documents[1] for row in mine_negatives(rows, 1, retriever=other)} == {"from elsewhere"}
    miner, out = tiny.save("bert", tmp_path / "miner"), tmp_path / "out"
    options = {**FAST, "mine_negatives": 2, "retriever": miner}
    train(bert_folder, PAIRS, out, **options)
    assert "retriever=" in (out / "README.md").read_text()
    tiny.save("bert", miner, seed=1)  # another one in the same folder
    with pytest.raises(ValueError, match="retriever was"):
        train(bert_folder, PAIRS, out, **options)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_adapters_are_low_rank_merged_and_resumed(family, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    backbone = tiny.save(family, tmp_path / "backbone")
    options = {**FAST, "lora_rank": 2, "rescale": 4.0, "save_steps": 2}
    splade = train(backbone, PAIRS, tmp_path / "out", **options)
    before, after = Splade(backbone, rescale=4.0).encoder.model.state_dict(), splade.encoder.model.state_dict()
    assert before.keys() == after.keys()
    ranks = {}
    for name, value in after.items():
        moved = value - before[name]
        if moved.any():
            ranks[name] = int(torch.linalg.matrix_rank(moved, rtol=1e-3)) if moved.dim() == 2 else 99
    assert len(ranks) >= 4 and set(ranks.values()) <= {1, 2}
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, after[name]) for name, value in stock.state_dict().items())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 4)
        train(backbone, PAIRS, tmp_path / "again", **options)
    train(backbone, PAIRS, tmp_path / "again", **options)
    again = weights_of(tmp_path / "again")
    assert all(torch.allclose(value, again[name], atol=1e-5) for name, value in weights_of(tmp_path / "out").items())
