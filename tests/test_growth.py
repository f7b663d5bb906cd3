"""A process that works all day does not grow: tensors, modules, open files and threads over repeated calls."""

from __future__ import annotations

import gc
import os
import threading
import warnings

import psutil
import pytest
import tiny
import torch

from pyterrier_rescale import Splade, audit, calibrate, encode, open_index, rescale, systems, train

DOCUMENTS = [{"docno": f"d{i}", "text": text} for i, text in enumerate(tiny.TEXTS)]
PAIRS = [(text[:20], text) for text in tiny.TEXTS]
QUICK = {"max_steps": 1, "batch_size": 2, "max_length": 16, "monitor": False, "save_steps": 0, "verbose": False}
VERBS = {
    "audit": lambda folder, out: audit(folder, tiny.TEXTS),
    "rescale": lambda folder, out: rescale(folder, 4.0),
    "calibrate": lambda folder, out: calibrate(folder, tiny.TEXTS, rate=0.1).apply(folder),
    "train": lambda folder, out: train(folder, PAIRS, out / "run", rescale=4.0, overwrite=True, **QUICK),
    "encode": lambda folder, out: encode(Splade(folder), DOCUMENTS, out / "v", overwrite=True, verbose=False),
    "exact": lambda folder, out: searched(folder, out, "exact"),
    "terrier": lambda folder, out: searched(folder, out, "terrier"),
    "systems": lambda folder, out: systems(
        {"a": Splade(folder)}, DOCUMENTS, out, engine="exact", overwrite=True)["a"].search("index"),
}  # fmt: skip


def searched(folder, out, engine):
    splade, index = Splade(folder), open_index(out / engine, engine)
    (splade.doc_encoder() >> index.indexer(mode="overwrite")).index(DOCUMENTS)
    found = (splade.query_encoder() >> index.retriever() >> index.scorer()).search("inverted index")
    assert len(found)


@pytest.mark.parametrize("verb", VERBS)
def test_repeated_calls_leave_nothing_behind(verb, bert_folder, tmp_path):
    def counts():
        gc.collect()
        kept = sum(isinstance(one, (torch.Tensor, torch.nn.Module)) for one in gc.get_objects())
        own = sum(str(tmp_path) in file.path for file in psutil.Process(os.getpid()).open_files())
        return kept, own, threading.active_count()

    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            VERBS[verb](bert_folder, tmp_path)
            seen.append(counts())
    assert seen[1] == seen[2] and seen[2][1] == 0
