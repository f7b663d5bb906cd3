"""Collections: documents, topics, qrels and training pairs, from a folder, a PyTerrier name, or installed packages."""

from __future__ import annotations

import os
from pathlib import Path

from .._utils.paths import expand
from .base import Collection
from .beir import BeirCollection, write_beir

__all__ = ["BeirCollection", "Collection", "load_collection", "write_beir"]


def load_collection(name_or_path: str | os.PathLike[str]) -> Collection:
    """Load a collection.

    A folder that holds ``corpus.jsonl`` or ``corpus.jsonl.gz`` wins over a name.

    Args:
        name_or_path: a folder in BEIR format; ``"docstrings"``, made from the installed Python packages without any
            download; the name of a PyTerrier dataset, such as ``"vaswani"``; or ``"irds:<id>"``, such as
            ``"irds:beir/scifact"``.

    Raises:
        FileNotFoundError: if the folder, or its corpus, does not exist.
        NotADirectoryError: if it is a file.
        TypeError: if `name_or_path` is neither a str nor a path.
        ValueError: if the name is unknown; the message says what is near.

    Example:
        >>> scifact = load_collection("irds:beir/scifact")
        >>> scifact.topics("test").head()
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"name_or_path must be a str or a path, got {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    if not name:
        raise ValueError("name_or_path must be a folder or the name of a collection, got an empty string")
    path = expand(name)
    if any((path / file).is_file() for file in ("corpus.jsonl", "corpus.jsonl.gz")):
        return BeirCollection(path)
    if isinstance(name_or_path, os.PathLike) or _looks_like_path(name) or path.is_file():
        return _named_like_a_path(name, path)
    if name == "docstrings":
        from .docstrings import docstring_collection

        return docstring_collection()
    from .named import named_collection

    return named_collection(name)


def _looks_like_path(name: str) -> bool:
    return ":" not in name and ("/" in name or os.sep in name or name.startswith((".", "~"))) or os.path.isabs(name)


def _named_like_a_path(name: str, path: Path) -> Collection:
    """Open a folder; where there is none, the error may know the collection that was meant."""
    try:
        return BeirCollection(path)  # raises, saying what is missing
    except FileNotFoundError as error:
        if path.exists() or name.startswith((".", "~")) or path.is_absolute():
            raise
        from .named import nearest_names

        if not (near := nearest_names(name)):
            raise
        raise FileNotFoundError(f"{error}; did you mean {' or '.join(map(repr, near))}?") from None
