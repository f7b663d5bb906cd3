"""Ids of queries and documents: what they may hold, and which come twice."""

from __future__ import annotations

import re

import numpy as np

# White space splits the columns of TREC runs and qrels; control characters and marks are invisible; surrogates are
# no UTF-8.
_FORBIDDEN = re.compile("[\\s\x00-\x1f\x7f\ufeff\ud800-\udfff]")


def check_id(value: object, what: str) -> str:
    """Return an id as a str; an int is written out.

    Args:
        value: the id.
        what: what to call it in the error, e.g. ``"docno"``.

    Raises:
        ValueError: unless it is an int, or a str that is not empty and holds neither white space, control characters,
            a byte-order mark nor lone surrogates.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a non-empty str, got {value!r}")
    if found := _FORBIDDEN.search(value):
        raise ValueError(
            f"{what} must hold no white space, control characters or lone surrogates, which TREC runs and qrels cannot "
            f"carry, got {value[:80]!r} with {found.group()!r}"
        )
    return value


class SeenIds:
    """Finds ids that come again, with 8 bytes for each: hashes in sorted runs, new ones in a set.

    Args:
        chunk: how many new ids the set holds; an id that repeats one of another chunk is found when its own is full.
    """

    def __init__(self, chunk: int = 1 << 16):
        self._chunk = chunk
        self._new: set[int] = set()
        self._runs: list[np.ndarray] = []  # each sorted, the longest first

    def add(self, identifier: str) -> set[int]:
        """Take one more id; return the hashes that (but for a collision) came twice, mostly none."""
        value = hash(identifier)
        if value in self._new:
            return {value}
        self._new.add(value)
        return self.flush() if len(self._new) >= self._chunk else set()

    def flush(self) -> set[int]:
        """Compare the new ids with all before; call it at the end. Returns as `add` does."""
        new = np.sort(np.fromiter(self._new, dtype=np.int64, count=len(self._new)))
        self._new.clear()
        again: set[int] = set()
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, new), len(run) - 1)
            again.update(new[run[place] == new].tolist())
        while self._runs and len(self._runs[-1]) <= 2 * len(new):  # so that runs stay few
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        if len(new):
            self._runs.append(new)
        return again
