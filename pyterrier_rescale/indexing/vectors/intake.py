"""Documents on their way to the encoder: checked one by one, counted, hashed, cut into shards and windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._utils.documents import as_documents
from ..._utils.seen_ids import SeenIds
from ..corpus import CorpusDigest
from ..engines.documents import check_docno, check_utf8

# Documents that are encoded together: the encoder sorts so many by length. Windows end where shards do, so that a
# shard's vectors do not depend on what was encoded before it.
WINDOW = 2048


@dataclass
class ShardEnd:
    """What is known of a shard's documents when the last of them was read."""

    rows: int
    digest: str


@dataclass
class Window:
    """Documents that are encoded together; ``end`` is there in a shard's last window."""

    shard: int
    docnos: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    end: ShardEnd | None = None


class Intake:
    """Reads the documents once.

    Args:
        documents: dicts with docno and the text field, a frame or Hugging Face Dataset of them, or a collection.
        text_field: the key of the text.
        shard_size: documents per shard.
        progress: called for every document.

    Attributes:
        ends: of each shard read to its end, in order.
    """

    def __init__(
        self, documents: Any, text_field: str, shard_size: int, progress: Callable[[], Any] | None = None
    ) -> None:
        self.documents = documents.corpus() if hasattr(documents, "corpus") else as_documents(documents)
        self.text_field = text_field
        self.shard_size = shard_size
        self.progress = progress
        self.ends: list[ShardEnd] = []
        self._corpus = CorpusDigest(("docno", text_field))
        self._seen = SeenIds()

    @property
    def corpus_fingerprint(self) -> str:
        """Of all documents read: that of ``corpus_fingerprint(documents, ("docno", text_field))``."""
        return self._corpus.value

    def windows(
        self, wanted: Callable[[int], bool], passed: Callable[[int, ShardEnd], Any] | None = None
    ) -> Iterator[Window]:
        """The documents of the wanted shards in windows; those of the others are read, checked and counted.

        Args:
            wanted: asked once for each shard, before its first document is given.
            passed: called at the end of each shard that is not wanted.

        Raises:
            TypeError, KeyError, ValueError: a document that cannot be encoded (the message names it), or none at all.
        """
        window: Window | None = None
        digest, docnos, encode = hashlib.sha256(), [], False
        for docno, text in self._checked():
            if len(docnos) == self.shard_size:
                yield from self._end(window, digest, docnos, passed)
                window, digest, docnos = None, hashlib.sha256(), []
            if not docnos:
                encode = wanted(len(self.ends))
            if encode:
                if window is not None and len(window.docnos) == WINDOW:
                    yield window
                    window = None
                window = window or Window(len(self.ends))
                window.docnos.append(docno)
                window.texts.append(text)
            docnos.append(docno)
            _refuse_repeated(self._seen.add(docno), docnos)
            digest.update(f"{len(docno)} {len(text)}\n{docno}{text}".encode())
            self._corpus.add({"docno": docno, self.text_field: text})
            if self.progress:
                self.progress()
        if not docnos:
            raise ValueError("documents must hold at least one document, got none")
        yield from self._end(window, digest, docnos, passed)

    def _end(
        self, window: Window | None, digest: Any, docnos: list[str], passed: Callable[[int, ShardEnd], Any] | None
    ) -> Iterator[Window]:
        _refuse_repeated(self._seen.flush(), docnos)
        end = ShardEnd(len(docnos), digest.hexdigest())
        self.ends.append(end)
        if window is not None:
            window.end = end
            yield window
        elif passed:
            passed(len(self.ends) - 1, end)

    def _checked(self) -> Iterator[tuple[str, str]]:
        for number, document in enumerate(self.documents):
            if not isinstance(document, Mapping):
                raise TypeError(
                    f"document {number} must be a dict with docno and {self.text_field}, got {type(document).__name__}"
                )
            if "docno" not in document:
                raise KeyError(f"document {number} has no 'docno' (it has {sorted(map(str, document))})")
            docno = check_docno(document["docno"], number)
            if self.text_field not in document:
                raise KeyError(
                    f"document {docno!r} has no {self.text_field!r} (it has {sorted(map(str, document))}); "
                    "Splade(..., text_field=...) names the text's key"
                )
            text = document[self.text_field]
            if not isinstance(text, str):
                raise ValueError(
                    f"document {docno!r}: {self.text_field!r} must be a string, got {text!r}; "
                    "drop the document or replace the value by ''"
                )
            check_utf8(text, f"{self.text_field!r} of document {docno!r}")
            yield docno, text


def _refuse_repeated(hashes: set[int], docnos: list[str]) -> None:
    """Raise if there are hashes of ids that came twice, naming the last of the shard's docnos that has one."""
    if hashes:
        again = next(docno for docno in reversed(docnos) if hash(docno) in hashes)
        raise ValueError(f"docno {again!r} occurs twice; docnos must be unique")
