"""How folders are written: whole or not at all, flushed before their name says so, on every system.

Windows can neither flush a handle that is open for reading nor replace or remove an open file; some network file
systems cannot flush folders. Nothing here asks them to.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
from platformdirs import user_cache_dir

HOME_VARIABLE = "PYTERRIER_RESCALE_HOME"
#: Lies in a folder whose files are being replaced, so that a mix of two saves is not taken for a whole one.
UNFINISHED = ".unfinished"
_STAGE = ".saving-"
# What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder."""
    return Path(path).expanduser()


def cache_dir(*parts: str) -> Path:
    """Return the folder at ``parts`` below ``$PYTERRIER_RESCALE_HOME``, default: the user's cache; it is created."""
    try:
        root = expand(os.environ.get(HOME_VARIABLE) or user_cache_dir("pyterrier_rescale", appauthor=False))
        folder = root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise PermissionError(f"no cache folder ({error}): set {HOME_VARIABLE} to a folder that is writable") from error
    return folder


def sync(path: str | os.PathLike[str]) -> None:
    """Flush a file, or on POSIX a folder, to the disk; file systems that cannot are left alone."""
    if not os.path.isdir(path):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":
        handle = os.open(path, os.O_RDONLY)
        with suppress(OSError):
            os.fsync(handle)
        os.close(handle)


def settle(folder: Path) -> None:
    """Flush all files below a folder, and give them the modes that the umask gives (libraries write 0600)."""
    probe = folder / f".mode-{uuid.uuid4().hex}"
    probe.touch()
    for path in [*folder.rglob("*"), folder]:
        if path == probe or path.is_symlink():
            continue
        if path.is_file():
            with suppress(PermissionError):  # file systems without modes
                shutil.copymode(probe, path)
        sync(path)
    probe.unlink()


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file beside, flush it, and put it in place: a reader finds the old one or the new one."""
    path = Path(path)
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        beside.write_bytes(content.encode())
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def only_process(lock: Path, patience: float = 0) -> Iterator[None]:
    """Hold a lock file, or refuse by ``RuntimeError``; file systems without locks are left alone."""
    held = filelock.FileLock(lock)
    try:
        held.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise RuntimeError(f"another process is writing at {lock.parent}: wait for it or stop it") from error
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        held.release()


@contextmanager
def whole_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a folder beside ``target`` to write into; it becomes ``target`` if the block ends without an error.

    Two processes may build the same target: the first one to finish is kept, the other's result is thrown away.
    """
    target = Path(os.path.realpath(expand(target)))
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{str(target)!r} exists already and is not an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:12]}")
    beside.mkdir()
    try:
        yield beside
        settle(beside)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()  # Windows puts no folder in the place of another
        try:
            os.rename(beside, target)
        except OSError:
            if not target.is_dir():
                raise
        sync(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def filled(
    path: str | os.PathLike[str], mark: str, stale: Callable[[str], bool] = lambda name: False
) -> Iterator[Path]:
    """A stage to write into, whose files then replace those of a folder that may hold other things, too.

    The file ``mark`` goes in last: with it the folder is whole. Old files at the folder's root whose names are
    ``stale`` are removed if they are not written anew; all others stay.
    """
    path = expand(path)
    path.mkdir(parents=True, exist_ok=True)
    stage = path / f"{_STAGE}{uuid.uuid4().hex[:12]}"
    stage.mkdir()
    try:
        yield stage
        settle(stage)
        unmark(path, mark)
        files = sorted(file.relative_to(stage) for file in stage.rglob("*") if file.is_file())
        for old in [file for file in path.iterdir() if stale(file.name) and Path(file.name) not in files]:
            old.unlink()
        for file in sorted(files, key=lambda file: file == Path(mark)):  # the mark last
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / file, path / file)
        (path / UNFINISHED).unlink(missing_ok=True)
        sync(path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def unmark(path: Path, mark: str) -> None:
    """Take the mark of a whole folder away, and leave one that says so."""
    (path / UNFINISHED).touch()
    (path / mark).unlink(missing_ok=True)


def remove_half_saved(path: str | os.PathLike[str]) -> None:
    """Remove what killed saves left in a folder that nobody else is saving into."""
    for stage in Path(path).glob(f"{_STAGE}*"):
        shutil.rmtree(stage, ignore_errors=True)
