"""How an index takes its place: killed at any moment, beside folders of users, on any file system."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from engine_data import ENGINES, frame, retrieved

from pyterrier_rescale.indexing.engines import open_index, storage, workspace

pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")

OLD = [{"docno": f"old{i}", "toks": {"a": 100 + i, "b": 7}} for i in range(4)]
NEW = [{"docno": f"new{i}", "toks": {"a": 300 - i, "c": 9}} for i in range(3)]


class Killed(BaseException):
    """The process is gone: nothing that it would have done happens."""


def found(index) -> list[tuple[str, float]]:
    return retrieved(index.retriever()(frame([{"a": 100.0}])), "q0")


def truth(docs) -> list[tuple[str, float]]:
    return sorted(((d["docno"], float(d["toks"]["a"])) for d in docs), key=lambda pair: -pair[1])


def kill_at(monkeypatch, step: int, exchange: bool) -> list[str]:
    """Let the process die before its `step`-th change of a name; gives the list of changes that it makes."""
    changes: list[str] = []

    def mortal(name, function):
        def call(*args, **kwargs):
            if str(args[0]).endswith(".lock"):
                return function(*args, **kwargs)  # the system lets go of a dead process's lock
            if len(changes) >= step:
                raise Killed
            changes.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("rename", "mkdir", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, mortal(name, getattr(os, name)))
    own = mortal("exchange", workspace._exchange) if exchange else lambda *_: False
    monkeypatch.setattr(workspace, "_exchange", own)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return changes


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_killed_at_every_moment(tmp_path, monkeypatch, mode, exchange):
    """The old index or the new one is there, whole; the next run finds it, and leaves nothing beside it."""
    outcomes = set()
    for step in range(1000):
        path = tmp_path / str(step) / "i"
        path.parent.mkdir()
        if mode != "create":
            open_index(path, "exact").indexer().index(OLD)
        before = [] if mode == "create" else OLD
        after = [*OLD, *NEW] if mode == "append" else NEW
        with monkeypatch.context() as patch:
            changes = kill_at(patch, step, exchange)
            try:
                open_index(path, "exact").indexer(mode=mode).index(NEW)
                ended = True
            except Killed:
                ended = False
        index = open_index(path, "exact")
        outcomes.add(len(index))
        if len(index):
            assert index.built and found(index) in (truth(before), truth(after)), (step, changes)
        else:
            assert mode == "create" and not index.built
            with pytest.raises(FileNotFoundError, match="was not finished|there is no index"):
                found(index)
        if ended:
            assert found(index) == truth(after)
            break
        whole = found(index) if len(index) else []
        more = [{"docno": "more", "toks": {"a": 1}}]
        index.indexer(mode="append").index(more)
        assert found(index) == [*whole, *truth(more)]
        assert [p.name for p in path.parent.iterdir()] == ["i"]
    assert step >= 8 and outcomes == {len(before), len(after)}
    assert exchange is False or mode == "create" or "exchange" in changes, "this system has no exchange"


def test_reader_of_a_folder_it_cannot_change_says_where_the_old_index_is(tmp_path, monkeypatch):
    path = tmp_path / "i"
    open_index(path, "exact").indexer().index(OLD)
    left = workspace._make_workspace(path)
    os.rename(path, left / "old")

    def refuse(*_):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(FileNotFoundError, match=f"the former one is in {left / 'old'}"):
            found(open_index(path, "exact"))
    with pytest.raises(FileExistsError, match="there is an index"):
        open_index(path, "exact").indexer().index(NEW)  # it is put back first
    assert found(open_index(path, "exact")) == truth(OLD)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_folders_of_users_stay(tmp_path):
    """Whatever name they have: `i.old`, `i.partial`, and even names like ours, without our mark."""
    names = ["i.old", "i.partial", "i.lock", ".i.lock", "i.made-from.json.d", ".i.pyterrier_rescale-0123456789ab"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    (tmp_path / ".i.pyterrier_rescale.lock").write_text("a user's")
    other = workspace._make_workspace(tmp_path / "j")  # of another index
    (other / "new" / "x").write_text("x")
    before = tree(tmp_path)
    index = open_index(tmp_path / "i", "exact")
    for mode, docs in (("create", OLD), ("overwrite", NEW), ("append", OLD), ("overwrite", OLD)):
        index.indexer(mode=mode).index(docs)
    assert found(open_index(tmp_path / "i", "exact")) == truth(OLD)
    shutil.rmtree(tmp_path / "i")
    assert tree(tmp_path) == before


def appearing(path, docs, how):
    yield from docs
    how(path)


def make_thesis(path):
    if path.exists():
        shutil.move(path, path.with_name("moved"))
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def make_file(path):
    if path.exists():
        shutil.move(path, path.with_name("moved"))
    path.write_text("years of work")


def make_other_index(path):
    if path.exists():
        shutil.move(path, path.with_name("moved"))
    shutil.copytree(path.with_name("other"), path)


def add_note(path):
    path.mkdir(exist_ok=True)
    (path / "notes.txt").write_text("years of work")


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("how", [make_thesis, make_file, make_other_index, add_note])
@pytest.mark.parametrize("mode", ["create", "overwrite", "overwrite an index", "append"])
def test_what_appears_at_the_path_while_it_is_built_stays(tmp_path, monkeypatch, mode, how, exchange):
    if not exchange:
        monkeypatch.setattr(workspace, "_exchange", lambda *_: False)
    open_index(tmp_path / "other", "exact").indexer().index([{"docno": "other", "toks": {"z": 1}}])
    path = tmp_path / "i"
    if mode in ("overwrite an index", "append"):
        open_index(path, "exact").indexer().index(OLD)
    with pytest.raises((FileExistsError, RuntimeError)):
        open_index(path, "exact").indexer(mode=mode.split()[0]).index(appearing(path, NEW, how))
    if how is make_other_index:
        assert open_index(path, "exact").stats()["terms"] == 1
    else:
        left = path if how is make_file else path / ("notes.txt" if how is add_note else "thesis.txt")
        assert left.read_text() == "years of work"
    if mode in ("overwrite an index", "append"):
        assert found(open_index(path if how is add_note else tmp_path / "moved", "exact")) == truth(OLD)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("before", [None, OLD])
def test_what_appears_in_the_last_moment_stays(tmp_path, monkeypatch, before):
    """Between the last look and the move itself."""
    path, looks, check_vacant = tmp_path / "i", [], storage.check_vacant
    if before:
        open_index(path, "exact").indexer().index(before)

    def look(*args, **kwargs):
        seen = check_vacant(*args, **kwargs)
        looks.append(seen)
        if len(looks) == 3:
            make_thesis(path)
        return seen

    monkeypatch.setattr(storage, "check_vacant", look)
    with pytest.raises((FileExistsError, RuntimeError), match="it stays"):
        open_index(path, "exact").indexer(mode="overwrite").index(NEW)
    assert len(looks) == 3 and (path / "thesis.txt").read_text() == "years of work"


def test_files_of_users_in_the_index_folder_are_not_overwritten(tmp_path):
    path = tmp_path / "i"
    index = open_index(path, "exact").indexer().index(OLD)
    (path / ".DS_Store").write_text("what a file manager may add")
    (path / "notes.txt").write_text("years of work")
    for mode in ("overwrite", "append"):
        with pytest.raises(FileExistsError, match="holds files that are not the index's.*notes.txt"):
            index.indexer(mode=mode).index(NEW)
    assert found(index) == truth(OLD)
    (path / "notes.txt").unlink()
    assert found(index.indexer(mode="overwrite").index(NEW)) == truth(NEW)


def test_links_are_followed(tmp_path):
    open_index(tmp_path / "v1", "exact").indexer().index(OLD)
    (tmp_path / "current").symlink_to("v1")
    index = open_index(tmp_path / "current", "exact").indexer(mode="overwrite").index(NEW)
    assert (tmp_path / "current").is_symlink()
    assert found(index) == found(open_index(tmp_path / "v1", "exact")) == truth(NEW)


def test_long_names(tmp_path):
    path = tmp_path / ("n" * 250)
    assert found(open_index(path, "exact").indexer().index(OLD)) == truth(OLD)
    assert found(open_index(path, "exact").indexer(mode="overwrite").index(NEW)) == truth(NEW)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_file_systems_without_locks(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")
    asked = []

    def flock(*_):
        asked.append(code)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "i"
    index = open_index(path, "exact").indexer().index(OLD)
    # A run that is under way is left alone, here by this very process; one that has ended is cleared away.
    alive, ended = workspace._make_workspace(path), workspace._make_workspace(path)
    (ended / workspace.MARK).write_text(f'{{"pid": {dead_pid()}, "host": "{workspace.socket.gethostname()}"}}')
    assert found(index.indexer(mode="overwrite").index(NEW)) == truth(NEW)
    assert asked and sorted(p.name for p in tmp_path.iterdir()) == sorted(["i", alive.name])


def dead_pid() -> int:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    return pid


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.EAGAIN, RuntimeError, "another process is building the index at"),
        (errno.EWOULDBLOCK, RuntimeError, "another process is building the index at"),
        (errno.EIO, OSError, os.strerror(errno.EIO)),
    ],
)
def test_other_errors_of_locks(tmp_path, monkeypatch, code, error, message):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(error, match=message):
        open_index(tmp_path / "i", "exact").indexer().index(OLD)
    assert not (tmp_path / "i").exists()


def test_one_writer_at_a_time(tmp_path):
    """Also within a process; a stale lock file of a run that was killed holds nobody up."""
    index = open_index(tmp_path / "i", "exact")

    def docs():
        yield from OLD
        with pytest.raises(RuntimeError, match="another process is building"):
            open_index(tmp_path / "i", "exact").indexer(mode="overwrite").index(NEW)
        open_index(tmp_path / "j", "exact").indexer().index(NEW)

    (tmp_path / ".i.pyterrier_rescale.lock").touch()
    assert found(index.indexer().index(docs())) == truth(OLD)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", "j"]


@pytest.mark.parametrize("engine", ENGINES)
def test_all_files_are_on_the_disk_before_the_index_takes_its_place(tmp_path, monkeypatch, engine):
    path, synced, in_place = tmp_path / "i", [], []
    fsync, put = os.fsync, workspace._put

    def record(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record_put(*args):
        in_place.extend(synced)
        put(*args)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(workspace, "_put", record_put)
    for mode, docs in (("create", OLD), ("overwrite", NEW)):
        synced.clear(), in_place.clear()
        open_index(path, engine).indexer(mode=mode).index(docs)
        files = {p.name: p.stat().st_ino for p in path.iterdir()}
        assert set(files.values()) <= set(in_place)
        assert in_place.index(files.pop(storage.META_FILE)) > max(map(in_place.index, files.values()))
        assert os.stat(tmp_path).st_ino in synced[len(in_place) :]
