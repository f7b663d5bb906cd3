"""Progress bars: PyTerrier's kind; where the output is no terminal (a log, a pipe), one line each, when they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm.std import tqdm as text_bar


class _EndLine(text_bar):
    """A bar that is drawn once, when it is closed: carriage returns redraw nothing in a file."""

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Draw nothing on the way."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Print without the carriage return."""

        def write(line: str) -> None:
            file.write(line)
            file.flush()

        return write


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm over the items, or one to ``update`` by hand; in notebooks a widget, as ``pt.tqdm`` is there."""
    # PyTerrier's choice, which a user can change, where PyTerrier is imported; else what tqdm chooses.
    kind = getattr(sys.modules.get("pyterrier"), "tqdm", None)
    if kind is None:
        from tqdm.auto import tqdm as kind
    return (kind if redraws(kind) else _EndLine)(items, **options)


def redraws(kind: type) -> bool:
    """Whether bars of this kind can be drawn again and again here: widgets can, text can at a terminal alone."""
    return sys.stderr.isatty() or any(cls.__module__ == "tqdm.notebook" for cls in kind.__mro__)
