"""Reading an index while other processes replace it: what is read is of one build, or read again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from . import storage, workspace

ATTEMPTS = 20

T = TypeVar("T")


def read_meta(path: Path) -> dict | None:
    """The manifest's part of ours, None if there is no index; one that was being replaced is put back first."""
    meta = storage.read_meta(path)
    if meta is None and workspace.recover(path):
        meta = storage.read_meta(path)
    return meta


def read_state(path: Path) -> tuple[dict | None, str | None]:
    """(manifest or None, what is wrong with the files or None), both of one build."""
    while True:
        meta = read_meta(path)
        damage = storage.damage(path, meta) if meta else None
        if damage is None or storage.generation(path) == meta.get("generation", ""):
            return meta, damage


def read_whole(path: Path, check: Callable[[], dict | None], read: Callable[[dict], T]) -> T:
    """What `read` makes of an index's files, all of one build: again, if the index was replaced in the meantime.

    It is given the manifest's part of ours by `check`, which returns None if there is no index, and raises if it is not
    the one wanted.

    Raises:
        FileNotFoundError: there is no whole index; the message says what is there.
        ValueError: the index is damaged.
        RuntimeError: the index is replaced all the time.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(0.005 * attempt)
        before, error = storage.generation(path), None
        try:
            meta = _undamaged(path, check())
            before = meta["generation"]
            found = read(meta)
        except Exception as raised:
            error = raised
        if storage.generation(path) == before and (before is not None or not workspace.recover(path)):
            if error is not None:
                raise error
            return found
    if isinstance(error, FileNotFoundError):
        raise error  # it is being replaced, by a run that does not come to an end
    raise RuntimeError(f"the index at {path} was replaced {ATTEMPTS} times while it was read") from error


def _undamaged(path: Path, meta: dict | None) -> dict:
    if meta is None:
        raise FileNotFoundError(
            f"{workspace.describe_absence(path)}: build it with (doc_encoder >> index.indexer()).index(docs)"
        )
    damage = storage.damage(path, meta)
    if damage:
        raise ValueError(f"the index at {path} is damaged: {damage}. Index again with indexer(mode='overwrite')")
    return meta
