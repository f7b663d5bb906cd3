"""A run is gone on with only by what it was begun with: backbone, tokenizer, data, texts, dev."""

from __future__ import annotations

import json
import os
import stat

import pandas as pd
import pytest
import tiny
import torch
from test_run import FAST, PAIRS

from pyterrier_rescale import train
from pyterrier_rescale.heads.fingerprint import model_fingerprint
from pyterrier_rescale.training.callbacks import Bookkeeper
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.data.loading import load_rows
from pyterrier_rescale.training.data.rows import Row, Rows
from pyterrier_rescale.training.inputs import INPUTS_FILE

OPTIONS = {**FAST, "max_steps": 4, "save_steps": 2}
DOCUMENTS = [{"docno": str(i), "text": text} for i, (_, text) in enumerate(PAIRS)]
TOPICS = pd.DataFrame({"qid": [str(i) for i in range(12)], "query": [query for query, _ in PAIRS]})
QRELS = pd.DataFrame({"qid": TOPICS["qid"], "docno": TOPICS["qid"], "label": 1})
IDS = [(str(i), str(i)) for i in range(12)]
TEXTS = (DOCUMENTS, TOPICS)


def begin(finished, out, monkeypatch, *arguments, **options):
    """A run that ends, or dies in its fourth step."""
    if finished:
        return train(*arguments, out, **OPTIONS, **options)
    step = Bookkeeper.on_pre_optimizer_step

    def interrupted(self, args, state, control, **rest):
        if state.global_step == 3:
            raise KeyboardInterrupt
        step(self, args, state, control, **rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bookkeeper, "on_pre_optimizer_step", interrupted)
        train(*arguments, out, **OPTIONS, **options)


def changed(pairs, row=-1):
    """The pairs with one letter more."""
    pairs = list(pairs)
    pairs[row] = (pairs[row][0], pairs[row][1] + "!")
    return pairs


@pytest.mark.parametrize("finished", [True, False])
def test_another_backbone_or_other_data_is_refused(finished, bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    begin(finished, out, monkeypatch, bert_folder, PAIRS)
    other = tiny.save("bert", tmp_path / "another-bert", seed=1)
    with pytest.raises(ValueError, match=r"resumed with backbone another-bert \(Bert.*\[\w{16}\] instead of bert0"):
        train(other, PAIRS, out, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match=r"data a list, 12 rows \[\w{16}\] instead of a list, 12 rows \[\w{16}\]"):
        train(bert_folder, changed(PAIRS), out, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match="with data a list, 11 rows"):
        train(bert_folder, PAIRS[:-1], out, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match="with data"):
        train(bert_folder, PAIRS[::-1], out, resume=True, **OPTIONS)
    assert train(bert_folder, iter(PAIRS), out, resume=True, **OPTIONS).encode_docs(["text"]).nnz >= 0
    assert TrainConfig.from_json(out / "train_config.json").save_steps == 2


def test_all_that_a_run_writes_has_the_umasks_mode(bert_folder, tmp_path, monkeypatch):
    before = os.umask(0o022)
    try:
        for finished in (False, True):
            out = tmp_path / f"finished-{finished}"
            dev = {"dev": (DOCUMENTS, TOPICS, QRELS), "eval_steps": 1}
            begin(finished, out, monkeypatch, bert_folder, IDS, texts=TEXTS, **dev)
            found = {path: stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*")}
            assert any(path.name == ("model.safetensors" if finished else "module.pt") for path in found)
            assert {mode for path, mode in found.items() if path.is_file()} == {0o644}
            assert {mode for path, mode in found.items() if path.is_dir()} == {0o755}
    finally:
        os.umask(before)


def test_one_changed_weight_or_setting_is_another_backbone(tmp_path):
    model, tokenizer = tiny.build("bert")
    out = tmp_path / "out"
    train(model, PAIRS, out, tokenizer=tokenizer, **OPTIONS)
    train(model, PAIRS, out, tokenizer=tokenizer, resume=True, **OPTIONS)
    recorded = json.loads((out / INPUTS_FILE).read_text())
    assert recorded["backbone"]["name"] == "BertForMaskedLM (BertForMaskedLM)" and model_fingerprint(model)
    model.config.hidden_dropout_prob = 0.3
    with pytest.raises(ValueError, match="resumed with backbone"):
        train(model, PAIRS, out, tokenizer=tokenizer, resume=True, **OPTIONS)
    model.config.hidden_dropout_prob = 0.1
    with torch.no_grad():
        model.get_input_embeddings().weight[-1, -1] += 1e-5
    with pytest.raises(ValueError, match="resumed with backbone"):
        train(model, PAIRS, out, tokenizer=tokenizer, resume=True, **OPTIONS)


@pytest.mark.parametrize("finished", [True, False])
def test_another_tokenizer_texts_or_dev(finished, bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    begin(finished, out, monkeypatch, bert_folder, IDS, texts=TEXTS, dev=(DOCUMENTS, TOPICS, QRELS))
    given = {"texts": TEXTS, "dev": (DOCUMENTS, TOPICS, QRELS)}
    other = tiny.tokenizer("wordpiece", size=380)
    texts = ([*DOCUMENTS[:-1], {"docno": "11", "text": "another text"}], TOPICS)
    for what, change in (
        ("tokenizer a TokenizersBackend", {"tokenizer": other}),
        ("data a list, 12 rows, texts from a tuple", {"texts": texts}),
        ("dev none instead of a tuple", {"dev": None}),
        ("dev a tuple", {"dev": (texts[0], TOPICS, QRELS)}),
        ("dev a tuple", {"dev": (DOCUMENTS, TOPICS, QRELS.assign(label=2))}),
    ):
        with pytest.raises(ValueError, match=f"resumed with {what}"):
            train(bert_folder, IDS, out, resume=True, **{**OPTIONS, **given, **change})
    train(bert_folder, IDS, out, resume=True, **OPTIONS, **given)


def test_other_mined_negatives_come_from_other_options_not_inputs(bert_folder, tmp_path, monkeypatch):
    """What is recorded are the rows as given: a finished run is not mined again to be recognised."""
    from pyterrier_rescale.training import negatives

    def mine(rows, *_, **__):
        return load_rows([(row.query, *row.documents, "a negative") for row in rows])

    monkeypatch.setattr(negatives, "mine_negatives", mine)
    train(bert_folder, PAIRS, tmp_path / "out", mine_negatives=1, **OPTIONS)
    monkeypatch.setattr(negatives, "mine_negatives", None)
    train(bert_folder, PAIRS, tmp_path / "out", mine_negatives=1, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match="mine_negatives=0 instead of 1"):
        train(bert_folder, PAIRS, tmp_path / "out", resume=True, **OPTIONS)


def test_a_run_without_a_record_is_not_trusted(bert_folder, tmp_path):
    out = tmp_path / "out"
    train(bert_folder, PAIRS, out, **OPTIONS)
    (out / INPUTS_FILE).unlink()
    with pytest.raises(ValueError, match=f"has no {INPUTS_FILE}.*overwrite=True starts anew"):
        train(bert_folder, PAIRS, out, resume=True, **OPTIONS)
    train(bert_folder, changed(PAIRS), out, overwrite=True, **OPTIONS)
    train(bert_folder, changed(PAIRS), out, resume=True, **OPTIONS)


def test_an_interrupted_run_needs_as_many_processes(bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    begin(False, out, monkeypatch, bert_folder, PAIRS)
    recorded = json.loads((out / INPUTS_FILE).read_text())
    recorded["processes"]["fingerprint"] = "2"
    (out / INPUTS_FILE).write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="resumed with processes 1 instead of 2"):
        train(bert_folder, PAIRS, out, resume=True, **OPTIONS)


def test_fingerprints_of_rows_tell_them_apart():
    rows = [
        [Row("a", ("b",)), Row("c", ("d",))],
        [Row("ab", ("",)), Row("c", ("d",))],
        [Row("a", ("b", "c")), Row("c", ("d",))],
        [Row("a", ("b", "c"), (1.0, 0.0)), Row("c", ("d",))],
        [Row("a", ("b", "c"), (1.0, 0.5)), Row("c", ("d",))],
        [Row("c", ("d",)), Row("a", ("b",))],
        [Row("a", ("b",))],
    ]
    assert len({Rows(some).facts.fingerprint for some in rows}) == len(rows)


def test_files_and_lists_of_the_same_rows_are_the_same_data(tmp_path):
    (tmp_path / "a.tsv").write_text("\n".join("\t".join(pair) for pair in PAIRS))
    prints = {load_rows(data).facts.fingerprint for data in (PAIRS, iter(PAIRS), tmp_path / "a.tsv")}
    assert len(prints) == 1
