"""One lock per object, whoever holds the object: for models and tokenizers, whose state changes while they run."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def lock_of(thing: Any) -> threading.RLock:
    """The reentrant lock of an object that can be hashed by identity; it lives as long as the object.

    Kept beside the object, not in it, so that the object still pickles and copies.
    """
    with _guard:
        return _locks.setdefault(thing, threading.RLock())
