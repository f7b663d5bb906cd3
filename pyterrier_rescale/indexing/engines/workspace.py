"""Where an index is built and how it takes its place: at every moment the old index or the new one is there, whole.

Beside ``path`` lie, while an index is built: a lock file, and a workspace, a folder that carries our mark and holds the
new index until it is whole. The new index then changes places with the old one in a single step. Where a file system
has no such step, the old index is moved into the workspace first; if the process ends just then, the next reader or
writer moves it back. Nothing without our mark is ever removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..._utils.durable import sync
from ..._utils.locks import open_locked
from . import storage

MARK = ".pyterrier_rescale-workspace"
_NEW, _OLD = "new", "old"
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV)


@contextlib.contextmanager
def building(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to build in, under the lock of `path`; becomes `path` if the block ends without an exception.

    What killed runs left beside `path` is removed, or put back if it is an index whose place is empty. A link is
    followed: the folder that it points to is replaced. Where the system has no locks (some network file systems), runs
    at the same time do not see each other; the first to finish stays.

    Raises:
        FileExistsError: something is at `path` and `overwrite` is False, or it is not an index of ours, or holds files
            that are not the index's.
        RuntimeError: another process is building this index now, or has replaced it in the meantime.
    """
    path = Path(os.path.realpath(path))
    if not _abandoned_indexes(path):
        storage.check_vacant(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as locked:
        for workspace in _workspaces(path):
            if _is_abandoned(workspace, locked):
                _settle(workspace, path)
        before = storage.check_vacant(path, overwrite=overwrite)
        workspace = _make_workspace(path)
        try:
            yield workspace / _NEW
            _put(workspace, path, before)
        finally:
            _settle(workspace, path)


def recover(path: Path) -> bool:
    """Move back an index that a run was replacing when it was killed; whether there was one, or one is moving now."""
    path = Path(os.path.realpath(path))
    if path.exists() or not _abandoned_indexes(path):
        return False
    with contextlib.suppress(OSError, RuntimeError), _locked(path) as locked:
        for workspace in _abandoned_indexes(path):
            if _is_abandoned(workspace, locked):
                _settle(workspace, path)
    return True


def describe_absence(path: Path) -> str:
    """Why nothing can be served from `path`: no index, an unfinished one, or something else's folder."""
    if path.exists() and not path.is_dir():
        return f"{path} is not a folder"
    if path.is_dir() and any(path.iterdir()):
        return (
            f"the folder {path} holds no index written by pyterrier_rescale, or an incomplete one: its scale and "
            "document count are unknown. (A Terrier index built elsewhere: pt.terrier.TerrierIndex(path).tf().)"
        )
    real = Path(os.path.realpath(path))
    for workspace in _abandoned_indexes(real):
        old = workspace / _OLD
        return f"the index at {path} was being replaced when the run was interrupted: the former one is in {old}"
    for workspace in _workspaces(real):
        return f"the index at {path} was not finished (what an interrupted run left is in {workspace})"
    return f"there is no index at {path}"


def _make_workspace(path: Path) -> Path:
    workspace = _beside(path, f"-{uuid.uuid4().hex[:12]}")
    workspace.mkdir()
    owner = {"pid": os.getpid(), "host": socket.gethostname()}
    (workspace / MARK).write_text(json.dumps(owner), encoding="utf-8")
    (workspace / _NEW).mkdir()
    return workspace


def _put(workspace: Path, path: Path, before: str | None) -> None:
    """Move the new index to `path`, where the generation `before` must still be (None: nothing)."""
    new = workspace / _NEW
    if storage.check_vacant(path, overwrite=before is not None) != before:
        raise RuntimeError(f"the index at {path} was replaced by another run in the meantime; it stays")
    if before is None:
        try:
            os.rename(new, path)  # an empty folder gives way, anything else does not
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise FileExistsError(f"something appeared at {path} while the index was built; it stays") from error
    elif _exchange(new, path):
        # What came out may be another than what was looked at before.
        if storage.generation(new) != before:
            _exchange(new, path)
            raise RuntimeError(f"the index at {path} was replaced by another run in the meantime; it stays")
    else:
        os.rename(path, workspace / _OLD)
        os.rename(new, path)
    sync(path.parent)


def _settle(workspace: Path, path: Path) -> None:
    """Put the old index back if its place is empty, then remove the workspace and what is no longer needed in it."""
    new, old = workspace / _NEW, workspace / _OLD
    with contextlib.suppress(OSError):
        if old.exists() and not path.exists():
            os.rename(old, path)
        if old.exists() and new.exists():
            return  # something else took the place between two moves: keep both
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        (workspace / MARK).unlink(missing_ok=True)  # last, since what has no mark stays
        workspace.rmdir()


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change names in one step; False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if renameat2(here, os.fsencode(a), here, os.fsencode(b), ctypes.c_uint(exchange)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def _beside(path: Path, suffix: str) -> Path:
    """A hidden name of ours beside `path`, of bounded length."""
    name = path.name
    if len(os.fsencode(name)) > 160:
        name = f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return path.with_name(f".{name}.pyterrier_rescale{suffix}")


def _workspaces(path: Path) -> list[Path]:
    """Folders beside `path` with a name and a mark of ours; or empty, as a run killed in the first moment leaves it."""
    pattern = re.compile(re.escape(_beside(path, "").name) + "-[0-9a-f]{12}")
    try:
        names = sorted(name for name in os.listdir(path.parent) if pattern.fullmatch(name))
    except OSError:
        return []
    found = []
    for folder in (path.with_name(name) for name in names):
        with contextlib.suppress(OSError):
            if not folder.is_symlink() and ((folder / MARK).is_file() or not any(folder.iterdir())):
                found.append(folder)
    return found


def _abandoned_indexes(path: Path) -> list[Path]:
    return [workspace for workspace in _workspaces(path) if (workspace / _OLD).exists()]


def _is_abandoned(workspace: Path, locked: bool) -> bool:
    """Whether the run that made the workspace has ended: it held the lock that we hold, or its process is gone."""
    if locked:
        return True
    try:
        owner = json.loads((workspace / MARK).read_text(encoding="utf-8"))
        if owner["host"] != socket.gethostname():
            return False
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of `path`, which the system lets go when a process dies; gives False where there are no locks.

    Raises:
        RuntimeError: another process holds it.
    """
    file = _beside(path, ".lock")
    try:
        descriptor, locked = open_locked(file)
    except BlockingIOError as error:
        raise RuntimeError(f"another process is building the index at {path}; wait for it or stop it") from error
    try:
        yield locked
    finally:
        if not locked:  # Windows removes no open file
            os.close(descriptor)
        with contextlib.suppress(OSError):
            if file.stat().st_size == 0:  # ours is empty
                file.unlink()
        if locked:
            os.close(descriptor)
