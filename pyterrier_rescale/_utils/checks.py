"""Checks of arguments, and warnings; as numbers numpy's count, bools and NaN do not."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether value is a finite real number, Python's or numpy's, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_integer(name: str, value: Any, least: int = 1, *, optional: bool = False) -> Any:
    """Return an integer >= `least` as an int, or None if `optional`; a ValueError names the argument and the value."""
    if optional and value is None:
        return None
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}{' or None' if optional else ''}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, *, zero: bool = False) -> Any:
    """Return a finite number > 0 (with `zero` >= 0) as Python's int or float; see `check_integer` for errors."""
    if not is_number(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, got {value!r}")
    return _plain(value)


def check_share(name: str, value: Any, *, ends: bool = True) -> Any:
    """Return a share, from 0 to 1 (without `ends` between them), as Python's int or float; errors alike."""
    if not is_number(value) or not 0 <= value <= 1 or (not ends and value in (0, 1)):
        what = "a share from 0 to 1" if ends else "a number above 0 and below 1"
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return _plain(value)


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return the choice that a value is; else a ValueError names the argument, the choices and the value."""
    choices = list(choices)
    if value not in choices:
        known = list(map(repr, choices))
        raise ValueError(
            f"{name} must be {' or '.join(known) if len(known) == 2 else 'one of ' + ', '.join(known)}, got {value!r}"
        )
    return choices[choices.index(value)]  # True, where 1 was given


def check_is_list(texts: Any, of: str, name: str = "texts") -> None:
    """Raise ``TypeError`` for what would be iterated over by letters, keys, columns, or in no fixed order."""
    wrong = isinstance(texts, (str, bytes, Mapping, Set)) or hasattr(texts, "columns")
    if wrong or not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a list of {of}, such as [text] or frame['text'], got {type(texts).__name__}")


def warn(message: str) -> None:
    """Warn at the user's line that called into PyTerrier or this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pyterrier"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
