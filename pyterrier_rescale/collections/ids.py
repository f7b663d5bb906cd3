"""Ids of queries and documents: what they may hold."""

from __future__ import annotations

import re

import numpy as np

# White space splits the columns of TREC runs and qrels; control characters and marks are invisible; surrogates are
# no UTF-8.
_FORBIDDEN = re.compile("[\\s\x00-\x1f\x7f\ufeff\ud800-\udfff]")


def check_id(value: object, what: str) -> str:
    """Return an id as a str; an int is written out. Errors call it ``what``, e.g. ``"docno"``.

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
