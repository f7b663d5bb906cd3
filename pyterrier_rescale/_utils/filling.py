"""Save into a folder that may hold other things: all is written and flushed beside first, then moved in."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .durable import put_in_place, settle, sync
from .paths import expand

#: Lies in a folder while what makes it whole is not there: what is there may be of two saves.
UNFINISHED = ".unfinished"
_STAGE = ".saving-"


@contextmanager
def filled(path: str | Path, mark: str, *, replaced: re.Pattern[str] | None = None) -> Iterator[Path]:
    """A stage to write into, whose files are moved into ``path`` at the end; with ``mark``, moved last, it is whole.

    Files get the modes that the umask gives. Whatever else the folder holds stays.

    Args:
        path: the folder; made if need be.
        mark: name of the file without which nothing is loaded from the folder.
        replaced: old files of such names go, too, if they are not written anew.

    Raises:
        NotADirectoryError: if ``path`` is a file.
        OSError: if the folder cannot be written.
    """
    path = expand(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"path must be a folder, {str(path)!r} is a file")
    path.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=path))
    try:
        yield stage
        settle(stage)
        _move_in(stage, path, mark, replaced)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_half_saved(path: str | Path) -> None:
    """Remove what killed saves left in a folder, which nobody else may be saving into."""
    for stage in Path(path).glob(f"{_STAGE}*"):
        shutil.rmtree(stage, ignore_errors=True)


def _move_in(stage: Path, path: Path, mark: str, replaced: re.Pattern[str] | None) -> None:
    unmark(path, mark)
    files = sorted(file.relative_to(stage) for file in stage.rglob("*") if file.is_file())
    for old in path.iterdir() if replaced else ():
        if replaced.fullmatch(old.name) and Path(old.name) not in files:
            old.unlink()
    for folder in sorted({file.parent for file in files}):
        (path / folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        if file != Path(mark):
            os.replace(stage / file, path / file)
    for folder in {file.parent for file in files}:
        sync(path / folder)
    put_in_place(stage / mark, path / mark)
    (path / UNFINISHED).unlink(missing_ok=True)


def unmark(path: Path, mark: str) -> None:
    """Take the mark of a whole folder away, and leave one that says so."""
    (path / UNFINISHED).touch()
    (path / mark).unlink(missing_ok=True)
