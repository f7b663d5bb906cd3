"""Splade and its stages go wherever Python objects go, and are the same encoder there, or say that they cannot be."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys

import cloudpickle
import pandas as pd
import pytest
import tiny
import torch

from pyterrier_rescale import Splade, rescale

WAYS = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "protocol 2": lambda thing: pickle.loads(pickle.dumps(thing, protocol=2)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
DOCUMENTS = pd.DataFrame({"docno": [f"d{i}" for i in range(12)], "text": tiny.TEXTS})
QUERIES = pd.DataFrame({"qid": ["1", "2"], "query": tiny.TEXTS[:2]})


def stages(splade):
    return [
        (splade.doc_encoder(scale=50, batch_size=4), DOCUMENTS),
        (splade.query_encoder(scale=2.0), QUERIES),
        (splade.scorer(), QUERIES.merge(DOCUMENTS, how="cross")),
        (splade, DOCUMENTS),
        (splade.query_encoder() >> splade.scorer(), QUERIES.merge(DOCUMENTS, how="cross")),
    ]


def check_same(again, splade):
    assert abs(again.encode_docs(tiny.TEXTS[:3]) - splade.encode_docs(tiny.TEXTS[:3])).max() == 0
    assert abs(again.encode_queries(tiny.TEXTS[:3]) - splade.encode_queries(tiny.TEXTS[:3])).max() == 0
    assert again == splade and hash(again) == hash(splade)


@pytest.mark.parametrize("way", WAYS)
def test_of_a_folder(way, tmp_path):
    path = tiny.save("bert", tmp_path / "m")
    splade = Splade(path, rescale=4, pooling="sum", max_length=32, lowercase=True, batch_size=5)
    again = WAYS[way](splade)
    check_same(again, splade)
    assert repr(again) == repr(splade)
    shutil.rmtree(path)  # what was pickled is the encoder, not the name of a folder
    for stage, frame in stages(splade):
        pd.testing.assert_frame_equal(WAYS[way](stage)(frame), stage(frame))


@pytest.mark.parametrize("way", WAYS)
def test_with_the_model(way):
    for family in ("bert", "modernbert", "xlm-roberta"):
        model, tok = tiny.build(family)
        model.train()
        splade = Splade(rescale(model, 4), tokenizer=tok, max_length=32, lowercase=family == "bert")
        again = WAYS[way](splade)
        check_same(again, splade)
        assert repr(again) == repr(splade)
    splade = Splade(model, tokenizer=tok, rescale=2)
    check_same(WAYS[way](splade), splade)


def test_a_model_that_was_trained_on_goes_along(tmp_path):
    path = tiny.save("bert", tmp_path / "m")
    splade = Splade(path)
    before = splade.encode_docs(tiny.TEXTS)
    with torch.no_grad():
        splade.encoder.head.bias.add_(1)
    for way in WAYS.values():
        again = way(way(splade))
        assert abs(again.encode_docs(tiny.TEXTS) - splade.encode_docs(tiny.TEXTS)).max() < 1e-6
        assert again == splade and abs(again.encode_docs(tiny.TEXTS) - before).max() > 0.1
    twin = copy.deepcopy(splade)
    with torch.no_grad():
        twin.encoder.head.bias.copy_(Splade(path).encoder.head.bias)
    assert twin != splade and twin == Splade(path)


def test_in_another_process_elsewhere(tmp_path, monkeypatch):
    """Relative folders are found again; stages come back through joblib, too."""
    tiny.save("bert", tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    splade = Splade("m", max_length=32)
    (tmp_path / "stage").write_bytes(pickle.dumps(splade.doc_encoder()))
    DOCUMENTS.to_json(tmp_path / "documents")
    script = (
        "import pickle, sys, pandas as pd\n"
        f"stage = pickle.load(open({str(tmp_path / 'stage')!r}, 'rb'))\n"
        f"out = stage(pd.read_json({str(tmp_path / 'documents')!r}, dtype=False))\n"
        "sys.stdout.buffer.write(pickle.dumps([dict(toks) for toks in out['toks']]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd="/", env=environment, timeout=240
    )
    assert pickle.loads(found.stdout) == splade.doc_encoder()(DOCUMENTS)["toks"].tolist()
