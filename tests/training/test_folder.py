"""The output folder: the same call goes on, other inputs are refused by name, files of others are left alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from test_run import FAST, PAIRS, dev_split, interrupt, log_of, weights_of

from pyterrier_rescale import CollapseError, Splade, train
from pyterrier_rescale._utils.made_from import alone

OPTIONS = {**FAST, "max_steps": 4, "save_steps": 2}
DOCUMENTS, TOPICS, QRELS = dev_split()
IDS = [(str(i), str(i)) for i in range(12)]
GIVEN = {"texts": (DOCUMENTS, TOPICS), "dev": (DOCUMENTS, TOPICS, QRELS)}


def begin(finished, monkeypatch, backbone, data, out, **options):
    """A run that ends, or dies in its fourth step."""
    if finished:
        return train(backbone, data, out, **OPTIONS, **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 4)
        train(backbone, data, out, **OPTIONS, **options)


@pytest.mark.parametrize("finished", [True, False])
def test_other_inputs_are_refused_by_name_and_the_same_go_on(finished, bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    begin(finished, monkeypatch, bert_folder, IDS, out, **GIVEN)
    texts = ([*DOCUMENTS[:-1], {"docno": "11", "text": "another text"}], TOPICS)
    for name, backbone, data, changes in (
        ("backbone", tiny.save("bert", tmp_path / "another", seed=1), IDS, {}),
        ("tokenizer", bert_folder, IDS, {"tokenizer": tiny.tokenizer("wordpiece", size=380)}),
        ("data", bert_folder, IDS[:-1], {}),
        ("data", bert_folder, IDS[::-1], {}),
        ("data", bert_folder, [(*pair, "3") for pair in IDS], {"negatives": 0}),
        ("data", bert_folder, IDS, {"texts": texts}),
        ("dev", bert_folder, IDS, {"dev": None}),
        ("dev", bert_folder, IDS, {"dev": (DOCUMENTS, TOPICS, QRELS.assign(label=2))}),
        ("seed was 0, now 1", bert_folder, IDS, {"seed": 1}),
        ("mine_negatives", bert_folder, IDS, {"mine_negatives": 1}),
        ("shift", bert_folder, IDS, {"shift": [0.5] * 400}),
    ):
        with pytest.raises(ValueError, match=f"made from other inputs: .*{name}"):
            train(backbone, data, out, **{**OPTIONS, **GIVEN, **changes})
    with pytest.raises(FileExistsError, match="overwrite=True starts anew"):
        train(bert_folder, IDS, out, resume=False, **OPTIONS, **GIVEN)
    before = (out / "model.safetensors").stat().st_mtime_ns if finished else None
    train(bert_folder, iter(IDS), out, **OPTIONS, **GIVEN, log_steps=2)  # which changes no weight
    assert finished == ((out / "model.safetensors").stat().st_mtime_ns == before)
    assert Splade(out).encode_docs(["text"]).shape[0] == 1 and not list(out.glob("*.pt"))


@pytest.mark.parametrize("ending", ["whole", "interrupted", "collapsed"])
def test_overwriting_starts_anew_and_leaves_the_users_files(ending, bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    if ending == "collapsed":
        with monkeypatch.context() as patch, pytest.raises(CollapseError):
            interrupt(patch, 4, CollapseError("nan", 4, "a test"))
            train(bert_folder, PAIRS, out, pooling="sum", rescale="calibrated", **OPTIONS)
    else:
        begin(ending == "whole", monkeypatch, bert_folder, PAIRS, out, pooling="sum", rescale="calibrated")
    if ending != "whole":
        with pytest.raises(ValueError, match="no whole encoder"):
            Splade(out)
        (out / "README.md").write_text("my own notes")
    (out / "checkpoints" / "other-run").mkdir(parents=True)
    (out / "checkpoints" / "other-run" / "weights").write_text("precious")
    splade = train(bert_folder, PAIRS[::-1], out, overwrite=True, **OPTIONS)
    assert splade.pooling == "max" and [row["step"] for row in log_of(out)] == [1, 2, 3, 4]
    assert (out / "checkpoints" / "other-run" / "weights").read_text() == "precious"
    assert ((out / "README.md").read_text() == "my own notes") == (ending != "whole")
    fresh = train(bert_folder, PAIRS[::-1], tmp_path / "fresh", **OPTIONS)
    assert (fresh.encode_docs(tiny.TEXTS) != splade.encode_docs(tiny.TEXTS)).nnz == 0


@pytest.mark.parametrize("overwrite", [True, False])
def test_folders_of_others_are_refused(overwrite, bert_folder, tmp_path):
    model, tokenizer = tiny.build("bert")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    Splade(bert_folder).save_pretrained(tmp_path / "encoder")
    for name in ("notes", "file", "encoder"):
        with pytest.raises(FileExistsError, match=f"{name}' is not empty and holds no training run"):
            train(model, PAIRS, tmp_path / name, tokenizer=tokenizer, overwrite=overwrite, **OPTIONS)
    backbone = tmp_path / "backbone"
    before = tiny.save("bert", backbone) and weights_of(backbone)
    for place in (backbone, tmp_path / "notes" / ".." / "backbone"):
        with pytest.raises(ValueError, match="is the backbone's folder"):
            train(backbone, PAIRS, place, overwrite=overwrite, **OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(backbone).items())
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"


def test_what_is_refused_before_the_first_step_leaves_no_folder(tmp_path):
    model, tokenizer = tiny.build("bert")
    for options, message in (
        ({"report_to": "tensorbord"}, "report_to must be "), ({"eval_steps": 5}, "eval_steps=5 goes with dev"),
        ({"max_length": 4000}, "max_length"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, **{**FAST, **options})
    assert not (tmp_path / "out").exists()
    with alone(tmp_path / "out"), pytest.raises(RuntimeError, match="another process is writing at"):
        train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, overwrite=True, **FAST)


def test_a_run_that_has_collapsed_collapses_again(bert_folder, tmp_path):
    for _ in range(2):  # also from the checkpoint within the bad steps
        with pytest.raises(CollapseError, match="step 10"):
            train(bert_folder, PAIRS, tmp_path / "out", **{**FAST, "shift": 1e3, "max_steps": 12, "save_steps": 8})


def test_an_interrupted_run_needs_as_many_processes(bert_folder, tmp_path, monkeypatch):
    begin(False, monkeypatch, bert_folder, PAIRS, tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**kept, "processes": 2}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"begun by 2 process\(es\), now there are 1"):
        train(bert_folder, PAIRS, tmp_path, **OPTIONS)
