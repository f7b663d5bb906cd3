"""Collections: documents, topics, qrels and training pairs, from a folder, a name, or one's own data."""

from __future__ import annotations

import os
from typing import Any

from .._utils.files import expand
from .base import Collection
from .own import BeirCollection, OwnCollection, table_in, write_beir

__all__ = ["BeirCollection", "Collection", "load_collection", "write_beir"]


def load_collection(
    name_or_path: str | os.PathLike[str] | None = None, *, documents: Any = None, topics: Any = None, qrels: Any = None
) -> Collection:
    """Load a collection by its name, folder or file, or make one of your own data.

    A file, or a folder that holds a collection, wins over a name. Columns go by their usual names, such as ``docno``,
    ``doc_id``, ``id``; ``text``, ``body``, ``content``; ``title``; ``qid``, ``query_id``; ``query``, ``text``;
    ``label``, ``relevance``, ``score``. Ids become strings: 7 is ``"7"`` in all that the collection gives.

    Args:
        name_or_path: a folder in BEIR format, or with ``documents.csv``, ``topics.csv``, ``qrels.csv`` (or ``.tsv``,
            ``.jsonl``); a file of documents alone; ``"docstrings"``, made from the installed Python packages without
            any download; the name of a PyTerrier dataset, such as ``"vaswani"``; or ``"irds:<id>"``, such as
            ``"irds:beir/scifact"``. Of data of your own, a name for them.
        documents: your own documents: a CSV, TSV or JSONL file, a frame, Hugging Face dataset or dicts, with ``docno``,
            ``text``, perhaps ``title``.
        topics: your own topics, likewise: ``qid``, ``query``.
        qrels: your own judgements, likewise: ``qid``, ``docno``, ``label``, which are those of split ``"test"``; or a
            dict of them by split, ``{"train": ..., "test": ...}``.

    Raises:
        FileNotFoundError: if the file, the folder, or its documents do not exist.
        TypeError: if `name_or_path` is neither a str nor a path.
        ValueError: if the name is unknown (the message says what is near), or a column is missing.

    Example:
        >>> scifact = load_collection("irds:beir/scifact")
        >>> scifact.topics("test").head()
        >>> own = load_collection(documents="documents.csv", topics="topics.csv", qrels="qrels.csv")
    """
    if documents is not None:
        own = OwnCollection(documents, topics, qrels, name=name_or_path or "own-data")
        own.check()
        return own
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise TypeError(
            f"name_or_path must be the name of a collection, a folder or a file, got "
            f"{name_or_path!r:.80}; rows of your own are given as documents="
        )
    name = os.fspath(name_or_path)
    path = expand(name)
    if path.is_file():
        return load_collection(path.name.partition(".")[0], documents=path)
    if table_in(path, "corpus", "documents"):
        return BeirCollection(path)
    if name == "docstrings":
        from .docstrings import docstring_collection

        return docstring_collection()
    if ":" not in name and (os.sep in name or "/" in name or name.startswith((".", "~")) or path.exists()):
        return BeirCollection(path)  # raises, saying what is missing
    from .named import named_collection

    return named_collection(name)
