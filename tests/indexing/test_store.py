"""The commit point: killed at any moment, beside other readers, writers and users' files, on any file system."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import filelock
import pandas as pd
import pytest
from engine_data import ENGINES, frame, retrieved
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode, open_index
from pyterrier_rescale.indexing import store

pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")
OLD = [{"docno": f"old{i}", "toks": {"a": 100 + i, "b": 7}} for i in range(4)]
NEW = [{"docno": f"new{i}", "toks": {"a": 300 - i, "c": 9}} for i in range(3)]


class Killed(BaseException):
    """The process is gone: nothing that it would have done happens."""


def found(index) -> list[tuple[str, float]]:
    return retrieved(index.retriever()(frame([{"a": 100.0}])), "q0")


def truth(docs) -> list[tuple[str, float]]:
    return sorted(((d["docno"], float(d["toks"]["a"])) for d in docs), key=lambda pair: -pair[1])


def kill_at(patch, step: int) -> list[str]:
    """Let the process die before its ``step``-th change of a name; gives the list of changes that it makes."""
    changes: list[str] = []

    def mortal(name, function):
        def call(*args, **kwargs):
            if str(args[0]).endswith(store.LOCK):
                return function(*args, **kwargs)  # the system lets go of a dead process's lock
            if len(changes) >= step:
                raise Killed
            changes.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "link"):
        patch.setattr(os, name, mortal(name, getattr(os, name)))
    return changes


@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_killed_at_every_moment(tmp_path, monkeypatch, mode):
    """The old index or the new one is there, whole; the same call then builds the new one."""
    outcomes = set()
    for step in range(1000):
        path = tmp_path / str(step)
        if mode != "create":
            open_index(path, "exact").indexer().index(OLD)
        before, after = [] if mode == "create" else OLD, [*OLD, *NEW] if mode == "append" else NEW
        with monkeypatch.context() as patch:
            changes = kill_at(patch, step)
            try:
                open_index(path, "exact").indexer(mode=mode).index(NEW)
                ended = True
            except Killed:
                ended = False
        index = open_index(path, "exact")
        outcomes.add(len(index))
        assert (found(index) if len(index) else []) in (truth(before), truth(after)), (step, changes)
        if ended:
            break
        if len(index) == len(before):
            index.indexer(mode=mode).index(NEW)
        assert found(index) == truth(after), (step, changes)
        others = store.read_manifest(path).others
        assert {p.name for p in path.glob("g-*")} <= {index.open().folder.name, *others}, "a folder is nobody's"
    assert step >= 8 and outcomes == {len(before), len(after)}


def test_an_encode_killed_at_every_moment_goes_on(tmp_path, monkeypatch):
    documents, whole = make_documents(40), None
    for step in range(1000):
        path = tmp_path / str(step)
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                encode(StubEncoder(), documents, path, shard_size=16, verbose=False)
                ended = True
            except Killed:
                ended = False
        vectors = encode(StubEncoder(), documents, path, shard_size=16, verbose=False)
        files = {p.name: p.read_bytes() for p in path.rglob("*.parquet")}
        assert len(vectors) == 40 and (whole is None or files == whole), step
        whole = files
        if ended:
            break
    assert step >= 8


BUILD = """if True:
    import sys, time
    from pyterrier_rescale import open_index
    path, engine, count, pause_at, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    def docs():
        for i in range(count):
            if i == pause_at:
                print("paused", flush=True)
                time.sleep(60)
            yield {"docno": f"d{i}", "toks": {f"x{(i * 7 + j) % 997}": 1 + (i + j) % 200 for j in range(20)}}
    print("start", flush=True)
    open_index(path, engine).indexer(mode=mode).index(docs())
    print("done", flush=True)
"""


def build_process(path, engine, count, pause_at=-1, mode="create"):
    command = [sys.executable, "-c", BUILD, str(path), engine, str(count), str(pause_at), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for(process, word):
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the process ended without saying {word!r}")


def test_a_real_kill_and_one_writer_at_a_time(tmp_path):
    process = build_process(tmp_path / "i", "exact", 3000, pause_at=2000)
    wait_for(process, "paused")
    index = open_index(tmp_path / "i", "exact")
    with pytest.raises(RuntimeError, match="another process is writing"):
        index.indexer().index(OLD)
    process.kill()
    process.wait()
    with pytest.raises(FileNotFoundError, match="not finished"):
        found(index)
    assert found(index.indexer().index(OLD)) == truth(OLD)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_killed_at_random_moments(tmp_path, engine):
    """20 kills -9, each over an index of 100 documents: what opens has 100 or 3,000, and is whole."""
    rng = random.Random(7)
    process = build_process(tmp_path / "timing", engine, 3000)
    wait_for(process, "start")
    begun = time.monotonic()
    wait_for(process, "done")
    span = time.monotonic() - begun
    whole = open_index(tmp_path / "timing").retriever(20)(frame([{"x5": 1.0, "x500": 2.0}]))
    for number in range(20):
        path = tmp_path / "i"
        shutil.rmtree(path, ignore_errors=True)
        first = build_process(path, engine, 100)
        first.wait()
        process = build_process(path, engine, 3000, mode="overwrite")
        wait_for(process, "start")
        time.sleep((number + rng.random()) / 20 * span * 1.5)  # from the start until after the end
        process.send_signal(signal.SIGKILL)
        process.wait()
        index = open_index(path, engine)
        assert index.built and len(index) in (100, 3000)
        wait_for(build_process(path, engine, 3000, mode="overwrite"), "done")
        pd.testing.assert_frame_equal(index.retriever(20)(frame([{"x5": 1.0, "x500": 2.0}])), whole)


WRITE = """if True:
    import sys, time
    from pyterrier_rescale import open_index
    path, seconds = sys.argv[1], float(sys.argv[2])
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        docs = [{"docno": f"d{i}", "toks": {"a": 10 * number + i}} for i in range(1 + number % 7)]
        try:
            open_index(path, sys.argv[3]).indexer(mode="overwrite").index(docs)
        except RuntimeError:
            pass
"""


@pytest.mark.parametrize(
    ("engine", "seconds"),
    [("exact", 6), *(pytest.param(engine, 60, marks=pytest.mark.slow) for engine in ("exact", "terrier"))],
)
def test_two_writers_and_a_reader(tmp_path, engine, seconds):
    """Never a mixed result: all scores of a call are of one build, which has 1 + number % 7 documents."""
    path = tmp_path / "i"
    open_index(path, engine).indexer().index([{"docno": "d0", "toks": {"a": 10}}, {"docno": "d1", "toks": {"a": 11}}])
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(seconds), engine]) for _ in range(2)]
    index, seen = open_index(path), set()
    query = frame([{"a": 100.0}])
    while any(writer.poll() is None for writer in writers):
        results = index.retriever()(query)
        number = min(results["score"]) // 10
        expected = {(f"d{i}", 10.0 * number + i) for i in range(1 + int(number) % 7)}
        assert set(zip(results["docno"], results["score"], strict=True)) == expected
        seen.add(number)
    assert all(writer.wait() == 0 for writer in writers) and len(seen) > 2
    assert len(list(path.glob("g-*"))) == 1, "replaced generations are removed"


@pytest.mark.parametrize("engine", ENGINES)
def test_handles_and_stages_follow_what_is_at_the_path(tmp_path, engine):
    index = open_index(tmp_path / "i", engine)
    retriever, scorer, cut = index.retriever(), index.scorer(), index.pruned(1).scorer()
    query = frame([{"a": 100.0}])
    index.indexer().index(OLD)
    assert found(open_index(tmp_path / "i")) == truth(OLD) == retrieved(retriever(query), "q0")
    open_index(tmp_path / "i", engine).indexer(mode="overwrite").index(NEW)  # by somebody else
    results = retriever(query)
    assert retrieved(results, "q0") == truth(NEW)
    for stage in (scorer, cut):
        assert stage(results)["score"].tolist() == pytest.approx([s for _, s in truth(NEW)])
    shutil.rmtree(tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="not there"):
        retriever(query)


class Overtaken(dict):
    """Query weights at whose first look somebody replaces the index."""

    def __iter__(self):
        path, docs = self.__dict__.pop("replaced", (None, None))
        if path:
            open_index(path).indexer(mode="overwrite").index(docs)
        return super().__iter__()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_search_answers_whole_where_its_build_goes_meanwhile(tmp_path, engine):
    """Opened on the old build, whose files are then gone: engines that open files late have errors of their own."""
    index = open_index(tmp_path / "i", engine)
    index.indexer().index(OLD)
    assert len(index.docnos) == len(OLD)  # reads the docnos, and no postings
    query = Overtaken({"a": 100.0})
    query.replaced = index.path, NEW
    assert retrieved(index.retriever()(frame([query])), "q0") in (truth(OLD), truth(NEW))
    assert found(index) == truth(NEW)


# What is not ours


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_folders_of_others_stay(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "g-0123456789ab").mkdir()
    (tmp_path / "thesis" / "g-0123456789ab" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    before = tree(tmp_path)
    for name in ("thesis", "file"):
        for mode in ("create", "overwrite", "append"):
            with pytest.raises(FileExistsError, match=name):
                open_index(tmp_path / name, "exact").indexer(mode=mode).index(OLD)
        with pytest.raises(FileExistsError, match=name):
            encode(StubEncoder(), make_documents(3), tmp_path / name, overwrite=True, verbose=False)
    left = tree(tmp_path)
    assert {name: text for name, text in left.items() if not name.endswith(store.LOCK)} == before


def test_files_of_users_in_the_folder_stay(tmp_path):
    index = open_index(tmp_path / "i", "exact").indexer().index(OLD)
    (tmp_path / "i" / "notes.txt").write_text("years of work")
    (tmp_path / "i" / "g-notes").mkdir()
    (tmp_path / "i" / "g-notes" / "x.txt").write_text("years of work")
    for mode in ("overwrite", "append", "overwrite"):
        index.indexer(mode=mode).index(NEW if mode == "overwrite" else OLD)
    assert tree(tmp_path / "i").items() >= {"notes.txt": b"years of work", "g-notes/x.txt": b"years of work"}.items()
    with pytest.raises(FileExistsError, match="already"):
        index.indexer().index(OLD)
    with pytest.raises(FileExistsError, match="index"):
        encode(StubEncoder(), make_documents(3), tmp_path / "i", verbose=False)


def test_links_are_followed(tmp_path):
    open_index(tmp_path / "v1", "exact").indexer().index(OLD)
    (tmp_path / "current").symlink_to("v1")
    index = open_index(tmp_path / "current", "exact").indexer(mode="overwrite").index(NEW)
    assert (tmp_path / "current").is_symlink()
    assert found(index) == found(open_index(tmp_path / "v1", "exact")) == truth(NEW)


# Other file systems


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks_and_links(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    monkeypatch.setattr(os, "link", refuse)
    index = open_index(tmp_path / "i", "exact").indexer().index(OLD)
    assert found(index.indexer(mode="append").index(NEW)) == truth([*OLD, *NEW])
