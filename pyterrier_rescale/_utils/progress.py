"""Progress bars: PyTerrier's kind; none where the output is no terminal and no notebook (a log, a pipe)."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def progress_bar(items: Iterable[Any] | None = None, *, disable: bool = False, **options: Any) -> Any:
    """A tqdm over the items, or one to ``update`` by hand; in notebooks a widget, as ``pt.tqdm`` is there."""
    # PyTerrier's choice, which a user can change, where PyTerrier is imported; else what tqdm chooses.
    kind = getattr(sys.modules.get("pyterrier"), "tqdm", None)
    if kind is None:
        from tqdm.auto import tqdm as kind
    return kind(items, disable=disable or None, **options)  # None: where there is no terminal
