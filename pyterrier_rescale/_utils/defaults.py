"""Default values that can be told from the same value typed by the user: what a folder was saved with then wins."""

from __future__ import annotations


class DefaultStr(str):
    """A string default, e.g. ``pooling="max"``; compare by ``is`` with the one object in the signature."""


class DefaultInt(int):
    """An integer default, e.g. ``max_length=256``; compare by ``is`` with the one object in the signature."""


class DefaultFloat(float):
    """A float default, e.g. ``k1=1.2``; compare by ``is`` with the one object in the signature."""


#: How documents are pooled where nothing is said.
MAX_POOLING = DefaultStr("max")
