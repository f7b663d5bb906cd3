"""Collections: documents, topics, qrels and training pairs, from a folder, a name, or one's own data."""

from __future__ import annotations

import os
from typing import Any

from .._utils.files import expand
from .base import Collection
from .own import BeirCollection, OwnCollection, write_beir

__all__ = ["BeirCollection", "Collection", "load_collection", "write_beir"]


def load_collection(
    name_or_path: str | os.PathLike[str] | None = None, *, documents: Any = None, topics: Any = None, qrels: Any = None
) -> Collection:
    """Load a collection by its name or folder, or make one of your own data.

    A folder that holds ``corpus.jsonl`` or ``corpus.jsonl.gz`` wins over a name.

    Args:
        name_or_path: a folder in BEIR format; ``"docstrings"``, made from the installed Python packages without any
            download; the name of a PyTerrier dataset, such as ``"vaswani"``; or ``"irds:<id>"``, such as
            ``"irds:beir/scifact"``. Of data of your own, a name for them.
        documents: your own documents: a frame, Hugging Face dataset or dicts, with ``docno``, ``text``, perhaps
            ``title``.
        topics: your own topics: a frame or dicts with ``qid``, ``query``.
        qrels: your own judgements: a frame or dicts with ``qid``, ``docno``, ``label``, which are those of split
            ``"test"``; or a dict of them by split, ``{"train": ..., "test": ...}``.

    Raises:
        FileNotFoundError: if the folder, or its corpus, does not exist.
        NotADirectoryError: if it is a file.
        TypeError: if `name_or_path` is neither a str nor a path.
        ValueError: if the name is unknown (the message says what is near), or a column is missing.

    Example:
        >>> scifact = load_collection("irds:beir/scifact")
        >>> scifact.topics("test").head()
        >>> own = load_collection(documents=[{"docno": "d1", "text": "a text"}])
    """
    if documents is not None:
        own = OwnCollection(documents, topics, qrels, name=name_or_path or "own-data")
        next(own.corpus(), None)  # mistakes are told here
        for split in own.splits:
            own.topics(split)
        return own
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise TypeError(f"name_or_path must be the name of a collection, or a folder, got {name_or_path!r}")
    name = os.fspath(name_or_path)
    path = expand(name)
    if any((path / file).is_file() for file in ("corpus.jsonl", "corpus.jsonl.gz")):
        return BeirCollection(path)
    if name == "docstrings":
        from .docstrings import docstring_collection

        return docstring_collection()
    from .named import named_collection, nearest_names

    if ":" not in name and (os.sep in name or "/" in name or name.startswith((".", "~")) or path.exists()):
        near = nearest_names(name)
        if path.exists() or not near:
            return BeirCollection(path)  # raises, saying what is missing
        raise FileNotFoundError(f"there is no folder {name!r}; did you mean {' or '.join(map(repr, near))}?")
    return named_collection(name)
