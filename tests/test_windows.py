"""An encoder's life as on Windows: no open or mapped file is replaced or removed, nothing read-only is flushed."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny
from windows import simulate_windows

from pyterrier_rescale import Splade, encode, open_index, rescale, train

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
PAIRS = [(text[:20], text) for text in tiny.TEXTS]
OPTIONS = {
    "rescale": None, "max_steps": 2, "batch_size": 4, "max_length": 16, "monitor": False, "save_steps": 1,
    "verbose": False,
}  # fmt: skip


def test_train_save_encode_index_and_save_over_what_was_loaded(bert_folder, tmp_path, monkeypatch):
    simulate_windows(monkeypatch, tmp_path)
    splade = train(bert_folder, PAIRS, tmp_path / "splade", **OPTIONS)
    again = train(bert_folder, PAIRS, tmp_path / "splade", overwrite=True, **OPTIONS)  # while ``splade`` is held
    expected = again.encode_docs(tiny.TEXTS)
    again.save_pretrained(tmp_path / "splade")
    Splade(tmp_path / "splade").save_pretrained(tmp_path / "splade")
    found = Splade(tmp_path / "splade").encode_docs(tiny.TEXTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-6)
    model = rescale(str(tmp_path / "splade"), 2.0)
    model.save_pretrained(tmp_path / "splade")
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(tiny.TEXTS)]
    vectors = encode(splade, documents, tmp_path / "v", verbose=False)
    for mode in ("create", "overwrite"):
        index = open_index(tmp_path / "i", "exact").indexer(mode=mode).index(vectors)
        results = (splade.query_encoder() >> index.retriever(3))(pd.DataFrame({"qid": ["1"], "query": ["tokenizers"]}))
        assert len(results) == 3 == len(index.scorer()(results))


def test_imports_need_no_fcntl():
    """The package and each of its rooms import where there is no ``fcntl`` and no ``pwd``."""
    code = (
        "import sys; sys.modules['fcntl'] = None; sys.modules['resource'] = None\n"
        "import pkgutil, importlib, pyterrier_rescale\n"
        "for module in pkgutil.walk_packages(pyterrier_rescale.__path__, 'pyterrier_rescale.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_text_file_is_opened_in_the_systems_encoding(bert_folder, tmp_path, monkeypatch):
    """Windows would write it in cp1252."""
    opened, real = [], builtins.open

    def strict(file, mode="r", *args, encoding=None, **kwargs):
        if "b" not in mode and encoding is None and str(tmp_path) in str(file):
            opened.append(str(file))
        return real(file, mode, *args, encoding=encoding, **kwargs)

    monkeypatch.setattr(builtins, "open", strict)
    Splade(bert_folder).save_pretrained(tmp_path / "splade")
    open_index(tmp_path / "i", "exact").indexer().index([{"docno": "d", "toks": {"caf\u00e9": 3}}])
    assert not [name for name in opened if "site-packages" not in name and name.endswith((".json", ".txt", ".csv"))]
