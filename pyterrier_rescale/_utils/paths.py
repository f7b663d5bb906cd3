"""Where built things are cached, and how a folder is written so that it is whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_dir

from .durable import settle, sync

HOME_VARIABLE = "PYTERRIER_RESCALE_HOME"


def cache_dir(*parts: str) -> Path:
    """Return the cache folder, or the one at `parts` below it, created if need be.

    It is ``$PYTERRIER_RESCALE_HOME`` if that is set, else the user's cache folder of this system
    (``~/.cache/pyterrier_rescale`` on Linux).

    Raises:
        PermissionError: if the folder cannot be created or written to.
        ValueError: if there is no home folder to put it in.
    """
    try:
        root = expand(os.environ.get(HOME_VARIABLE) or user_cache_dir("pyterrier_rescale", appauthor=False))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"no cache folder: there is no such home folder ({error}); set {HOME_VARIABLE} to a folder that is writable"
        ) from error
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise PermissionError(_unwritable(folder, f" ({error.strerror})")) from error
    if not writable:
        raise PermissionError(_unwritable(folder, ""))
    return folder


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder.

    Raises:
        ValueError: if it starts so and there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{os.fspath(path)!r}: there is no such home folder; write the path in full") from error


def _unwritable(folder: Path, reason: str) -> str:
    return f"cannot write to the cache folder {str(folder)!r}{reason}: set {HOME_VARIABLE} to a folder that is writable"


@contextmanager
def whole_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a folder beside `target` to write into; it becomes `target` if the block ends without an error.

    Its parent is created. Two processes may build the same target: the first one to finish is kept, the other result is
    thrown away. Files and folders get the modes that the umask gives (a cache may be shared), and reach the disk before
    the name does.

    Raises:
        FileExistsError: if `target` exists already and is not empty.
        OSError: if it cannot be put there: an empty folder that something is mounted on cannot be replaced.
    """
    target = Path(os.path.realpath(expand(target)))  # of a link, what it points to
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{str(target)!r} exists already and is not an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield beside
        settle(beside)
        try:
            os.replace(beside, target)
            sync(target.parent)
        except OSError:
            if not (target.is_dir() and any(target.iterdir())):  # not another process's result, so ours would be lost
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
