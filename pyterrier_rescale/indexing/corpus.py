"""What tells one corpus from another: a hash of the fields that are read of its documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .._utils.documents import as_documents


class CorpusDigest:
    """The fingerprint of documents, by some of their fields, while they are read for something else."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields, self.count, self._hash = tuple(fields), 0, hashlib.sha256()

    def add(self, document: Mapping[str, Any]) -> None:
        """Take in the next document; one without a field differs from one where it is empty."""
        self.count += 1
        read = [[name, document[name]] for name in self.fields if name in document]
        self._hash.update(json.dumps(read, default=repr).encode() + b"\n")

    @property
    def value(self) -> str:
        """Count and sixteen hex digits of the documents so far: ``"2:0123456789abcdef"``."""
        return f"{self.count}:{self._hash.hexdigest()[:16]}"


def corpus_fingerprint(
    documents: Callable[[], Iterable[Mapping[str, Any]]] | Iterable[Mapping[str, Any]],
    fields: Sequence[str] = ("docno", "text"),
) -> str:
    """The fingerprint of dicts (documents, topics, ...), a frame, or what gives them, by these fields alone."""
    digest = CorpusDigest(fields)
    for document in as_documents(documents() if callable(documents) else documents):
        digest.add(document)
    if not digest.count:
        raise ValueError("corpus must hold at least one document, got none")
    return digest.value
