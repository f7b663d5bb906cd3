"""Some of many, spread evenly over all of them."""

from __future__ import annotations

import numpy as np


def spread(length: int, most: int) -> np.ndarray:
    """At most ``most`` of the indices 0 .. length-1, ascending: the middles of equal parts."""
    number = min(length, most)
    return ((np.arange(number) + 0.5) * length / max(1, number)).astype(np.int64)
