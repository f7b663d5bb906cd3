"""Readers beside writers, handles that outlive an index, threads on one retriever."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import engine_data
import pandas as pd
import pytest
from engine_data import ENGINES, frame, make_docs, make_queries, retrieved

from pyterrier_rescale.encoding.terms import Toks
from pyterrier_rescale.indexing.engines import open_index, reading, storage, workspace

pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")

# The same number of bytes in every file: sizes tell nothing.
OLD = [{"docno": f"old{i}", "toks": {"a": 100 + i, "b": 50}} for i in range(5)]
NEW = [{"docno": f"new{i}", "toks": {"a": 104 - i, "b": 50}} for i in range(5)]
QUERY = frame([{"a": 100.0}])


def found(index) -> list[tuple[str, float]]:
    return retrieved(index.retriever()(QUERY), "q0")


def truth(docs) -> list[tuple[str, object]]:
    best = sorted(docs, key=lambda d: -d["toks"]["a"])
    return [(d["docno"], pytest.approx(d["toks"]["a"], rel=1e-3)) for d in best]


def overwrite(path, engine, docs=NEW):
    open_index(path, engine).indexer(mode="overwrite").index(docs)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("moment", ["read_docnos", "damage", "stamp"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_replaced_while_it_is_opened(tmp_path, monkeypatch, engine, moment, exchange):
    """After the docnos were read, after the sizes were looked at, before anything was: never a mixture."""
    path = tmp_path / "i"
    open_index(path, engine).indexer().index(OLD)
    if not exchange:
        monkeypatch.setattr(workspace, "_exchange", lambda *_: False)
    index, real, calls = open_index(path, engine), getattr(storage, moment), []

    def replaced_now(*args):
        got = real(*args)
        calls.append(got)
        if len(calls) == 1:
            overwrite(path, engine)
        return got

    monkeypatch.setattr(storage, moment, replaced_now)
    assert found(index) == truth(NEW)
    assert calls


ASK = {
    "built": lambda index: index.built,
    "stats": lambda index: index.stats()["documents"] == 6,
    "found": lambda index: len(found(index)) == 6,
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_an_index_of_other_sizes_is_not_called_damaged(tmp_path, monkeypatch, ask):
    path = tmp_path / "i"
    index = open_index(path, "exact").indexer().index(OLD)
    damage, calls = storage.damage, []

    def replaced_before(*args):
        calls.append(args)
        if len(calls) == 1:
            open_index(path, "exact").indexer(mode="append").index([{"docno": "more", "toks": {"a": 1}}])
        return damage(*args)

    monkeypatch.setattr(storage, "damage", replaced_before)
    assert ask(index) and len(calls) > 1


def test_an_index_replaced_all_the_time_is_told(tmp_path, monkeypatch):
    path, real = tmp_path / "i", storage.read_docnos
    open_index(path, "exact").indexer().index(OLD)
    monkeypatch.setattr(reading, "ATTEMPTS", 3)
    monkeypatch.setattr(storage, "read_docnos", lambda p: (overwrite(p, "exact"), real(p))[1])
    with pytest.raises(RuntimeError, match="was replaced 3 times while it was read"):
        found(open_index(path, "exact"))


WRITE = """if True:
    import sys
    from pyterrier_rescale.indexing.engines import open_index
    path, engine = sys.argv[1:]
    for turn in range(12):
        name = ("old", "new")[turn % 2]
        docs = [{"docno": f"{name}{i}", "toks": {"a": 100 + i if turn % 2 == 0 else 104 - i}} for i in range(5)]
        open_index(path, engine).indexer(mode="overwrite").index(docs)
    print("done")
"""


@pytest.mark.parametrize("engine", ["exact", pytest.param("terrier", marks=pytest.mark.slow)])
def test_reading_beside_another_process_that_writes(tmp_path, engine):
    path = tmp_path / "i"
    open_index(path, engine).indexer().index(OLD)
    opened = open_index(path, engine)
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path), engine], stdout=subprocess.PIPE, text=True)
    seen = set()
    while process.poll() is None:
        for index in (opened, open_index(path, engine)):
            results = found(index)
            assert results in (truth(OLD), truth(NEW))
            seen.add(results[0][0])
            assert len(index) == 5 and index.built
    assert process.stdout.read() == "done\n"
    assert found(opened) == truth(NEW)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_handle_notices_that_its_index_was_replaced(tmp_path, engine):
    path = tmp_path / "i"
    before = open_index(path, engine).indexer().index(OLD)
    retriever = before.retriever(3)
    assert retrieved(retriever(QUERY), "q0") == truth(OLD)[:3]
    overwrite(path, engine)
    after = open_index(path, engine)
    # What was computed with the one must not be taken for the other's.
    assert before != after and retriever != after.retriever(3) and before.generation != after.generation
    assert len({retriever, after.retriever(3)}) == 2
    assert retrieved(retriever(QUERY), "q0") == truth(NEW)[:3] == retrieved(after.retriever(3)(QUERY), "q0")
    assert before == after and hash(before) == hash(after)


def test_equality_of_handles(tmp_path):
    early, path = open_index(tmp_path / "i", "exact"), tmp_path / "i"
    assert early == open_index(path, "exact") and early.generation is None
    built = open_index(path, "exact").indexer().index(OLD)
    assert built == open_index(path, "exact") != early
    kept = hash(built)
    for clone in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert clone == built and found(clone) == truth(OLD)
    assert built.indexer(mode="overwrite").index(OLD) == open_index(path, "exact") and hash(built) == kept
    assert built.indexer() == built.indexer() != built.indexer(made_from={"a": 1})


def test_an_open_index_stays_open(tmp_path, monkeypatch):
    index = open_index(tmp_path / "i", "exact").indexer().index(OLD)
    first = index.searcher()
    monkeypatch.setattr(storage, "read_docnos", None)  # opening again would fail
    assert index.searcher() is first
    (tmp_path / "i" / storage.META_FILE).touch()  # another time, the same index
    assert index.searcher() is first


def test_a_removed_index_is_not_served(tmp_path):
    import shutil

    index = open_index(tmp_path / "i", "exact").indexer().index(OLD)
    found(index)
    shutil.rmtree(tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        found(index)


def test_vocabulary_and_scale_of_what_was_replaced(tmp_path):
    def docs(vocabulary, scale):
        return [{"docno": "d", "toks": Toks({"a": 200}.items(), f"{vocabulary}:{scale}")}]

    path = tmp_path / "i"
    index = open_index(path, "exact").indexer().index(docs("one", 100))
    query = frame([Toks({"a": 1.0}.items(), "one:1")])
    assert len(index.retriever()(query)) == 1
    overwrite(path, "exact", docs("two", 100))
    with pytest.raises(ValueError, match="another vocabulary"):
        index.retriever()(query)
    type(index).replacing(path, scale=10).indexer(mode="overwrite").index(docs("one", 10))
    with pytest.raises(ValueError, match="built at scale 10, got scale=100"):
        index.retriever()(query)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_an_index(tmp_path, engine):
    """Four threads, three sizes of results, two handles: each gets what it would get alone."""
    docs, queries = make_docs(1500), make_queries(12)
    index = open_index(tmp_path / "i", engine).indexer().index(docs)
    sizes = [5, 40, 400]
    alone = {k: index.retriever(k)(queries) for k in sizes}
    retrievers = {k: [index.retriever(k), open_index(index.path, engine).retriever(k)] for k in sizes}

    def retrieve(turn: int) -> None:
        k = sizes[turn % 3]
        pd.testing.assert_frame_equal(retrievers[k][turn % 2](queries), alone[k])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(retrieve, range(48)))


@pytest.mark.skipif(not engine_data.HAS_PISA, reason="no pyterrier-pisa")
def test_pisa_opens_an_index_once(tmp_path, monkeypatch):
    """Whatever numbers of results are asked for: opening again would find another index after an overwrite."""
    from pyterrier_rescale.indexing.engines import pisa

    index = open_index(tmp_path / "i", "pisa").indexer().index(OLD)
    searcher = index.searcher()
    monkeypatch.setattr(pisa, "_retriever", None)
    for k in (1, 3, 2):
        assert retrieved(index.retriever(k)(QUERY), "q0") == truth(OLD)[:k]
    assert index.searcher() is searcher
