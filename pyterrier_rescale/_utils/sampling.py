"""Some of many, spread evenly over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(length: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 .. length-1, ascending: the middles of equal parts."""
    number = min(length, most)
    return ((np.arange(number) + 0.5) * length / max(1, number)).astype(np.int64)


def spread_of(items: Iterable[T], most: int) -> list[T]:
    """At most ``most`` of the items, spread evenly, in their order: one pass that holds twice as many at a time."""
    kept, step = [], 1
    for number, item in enumerate(items):
        if number % step == 0:
            kept.append(item)
        if len(kept) == 2 * most:
            kept, step = kept[::2], 2 * step
    return [kept[place] for place in spread(len(kept), most)]
