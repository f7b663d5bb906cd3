"""What tells one corpus from another: a hash of the fields that are read of its documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .._utils.documents import as_documents


def corpus_fingerprint(
    documents: Callable[[], Iterable[Mapping[str, Any]]] | Iterable[Mapping[str, Any]],
    fields: Sequence[str] = ("docno", "text"),
) -> str:
    """Count and sixteen hex digits of the given fields of dicts, in their order: ``"2:0123456789abcdef"``.

    Two corpora have the same if exactly these fields are alike; others may differ.

    Args:
        documents: dicts (documents, topics, qrels, ...), a data frame of them, or a function that gives them.
        fields: what is read of each; a dict without a field differs from one where it is empty.

    Raises:
        ValueError: there are no documents.
    """
    digest = CorpusDigest(fields)
    for document in as_documents(documents() if callable(documents) else documents):
        digest.add(document)
    if not digest.count:
        raise ValueError("corpus must hold at least one document, got none")
    return digest.value


class CorpusDigest:
    """The fingerprint of a corpus, by some fields of its documents, that is read for something else at the same time.

    Attributes:
        count: documents so far.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields, self._hash, self.count = tuple(fields), hashlib.sha256(), 0

    def add(self, document: Mapping[str, Any]) -> None:
        """Take in the next document."""
        self.count += 1
        read = [[name, document[name]] for name in self._fields if name in document]
        self._hash.update(json.dumps(read, default=repr).encode() + b"\n")

    @property
    def value(self) -> str:
        """The fingerprint of the documents so far."""
        return f"{self.count}:{self._hash.hexdigest()[:16]}"
