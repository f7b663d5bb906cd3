"""An encoder's life as on Windows: no open or mapped file is replaced or removed, nothing read-only is flushed."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, encode, open_index, rescale, train
from pyterrier_rescale.indexing import store

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
PAIRS = [(text[:20], text) for text in tiny.TEXTS]
OPTIONS = {"rescale": None, "max_steps": 2, "save_steps": 1, "batch_size": 4, "max_length": 16, "verbose": False}
OPTIONS["monitor"] = False


def simulate_windows(monkeypatch, root) -> None:
    """What Windows refuses: unlinking, replacing or renaming an open or mapped file, fsync on a read-only handle."""

    def busy(path) -> bool:
        path = os.path.realpath(path)
        held = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        with open("/proc/self/maps") as maps:
            held |= {line.split(None, 5)[5].rstrip("\n") for line in maps if line.count("/")}
        return path in held or any(name.startswith(path + "/") for name in held)

    def careful(name, function):
        def call(*args, **kwargs):
            for path in args[: 2 if name in ("replace", "rename") else 1]:
                ours = isinstance(path, (str, os.PathLike)) and str(root) in str(path)
                if ours and not str(path).endswith(store.LOCK) and busy(path):
                    raise PermissionError(errno.EACCES, "the file is used by another process", str(path))
            return function(*args, **kwargs)

        return call

    for name in ("unlink", "remove", "replace", "rename", "rmdir"):
        monkeypatch.setattr(os, name, careful(name, getattr(os, name)))
    # shutil.rmtree works by descriptors of folders here, which Windows has not
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    fsync = os.fsync

    def strict(descriptor):
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and not folder:
            raise OSError(errno.EBADF, "fsync of a read-only handle")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", strict)


def test_train_save_encode_index_and_save_over_what_was_loaded(bert_folder, tmp_path, monkeypatch):
    simulate_windows(monkeypatch, tmp_path)
    with open(tmp_path / "held", "w") as held, pytest.raises(PermissionError):
        os.unlink(held.name)
    splade = train(bert_folder, PAIRS, tmp_path / "splade", **OPTIONS)
    again = train(bert_folder, PAIRS, tmp_path / "splade", overwrite=True, **OPTIONS)  # while ``splade`` is held
    expected = again.encode_docs(tiny.TEXTS)
    again.save_pretrained(tmp_path / "splade")
    Splade(tmp_path / "splade").save_pretrained(tmp_path / "splade")
    found = Splade(tmp_path / "splade").encode_docs(tiny.TEXTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-6)
    model = rescale(str(tmp_path / "splade"), 2.0)
    model.save_pretrained(tmp_path / "splade")
    vectors = encode(splade, tiny.DOCUMENTS, tmp_path / "v", verbose=False)
    rows = vectors.rows(["d3"])
    again = encode(splade, tiny.DOCUMENTS, tmp_path / "v", overwrite=True, verbose=False)
    assert (again.rows(["d3"]) != rows).nnz == 0
    queries = splade.query_encoder()(pd.DataFrame({"qid": ["1"], "query": ["tokenizers"]}))
    for engine in ("exact", "terrier"):
        path = tmp_path / engine
        reader = open_index(path, engine).indexer().index(vectors)
        expected = reader.retriever(3)(queries)
        for _ in range(3):  # while it is read
            writer = open_index(path, engine).indexer(mode="overwrite").index(vectors)
            assert reader.retriever(3)(queries).equals(expected) and writer.retriever(3)(queries).equals(expected)
            assert len(reader.scorer()(expected)) == 3
        writer.indexer(mode="append").index([{"docno": "new", "toks": dict.fromkeys(queries["query_toks"][0], 10**6)}])
        assert reader.retriever(3)(queries)["docno"][0] == "new"
        reader.close()
        writer.close()
        open_index(path, engine).indexer(mode="overwrite").index(vectors)
        assert len(list(path.glob("g-*"))) <= 2, "what could not be removed goes with the next build"


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
