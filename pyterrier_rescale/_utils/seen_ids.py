"""Which ids come twice, of any number of them, in little memory."""

from __future__ import annotations

import numpy as np


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
