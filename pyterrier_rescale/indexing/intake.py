"""Documents and queries where they enter: checked one by one; documents' weights made blocks of vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from .._utils.checks import is_number
from .._utils.documents import as_documents, has_surrogates
from .generation import Generation
from .shards import GROUP, Block

#: The largest weight: whole multiples of 1 / scale up to here come back exactly from float32.
MAX_WEIGHT = 2**22


def checked(documents: Any, key: str, held: Iterator[str] = ()) -> Iterator[tuple[str, Any]]:
    """(docno, document[key]) of each document: of dicts, a frame, a Hugging Face dataset, or a collection.

    Raises:
        TypeError, KeyError, ValueError: a document without a proper docno or without the key, a docno that comes twice
            or is among the ``held``, or no documents at all.
    """
    seen, number = set(held), -1
    for number, document in enumerate(documents.corpus() if hasattr(documents, "corpus") else as_documents(documents)):
        if not isinstance(document, Mapping):
            raise TypeError(f"document {number} must be a dict with docno and {key}, got {type(document).__name__}")
        if missing := [name for name in ("docno", key) if name not in document]:
            hint = "; Splade(..., text_field=...) names the text's key" if missing == [key] and key != "toks" else ""
            name = document.get("docno", number)
            raise KeyError(f"document {name!r} has no {missing[0]!r}, it has {sorted(map(str, document))}{hint}")
        docno = document["docno"]
        if not isinstance(docno, str) or docno.split() != [docno] or "\0" in docno or has_surrogates(docno):
            raise ValueError(
                f"docno of document {number} must be a str of valid UTF-8, not empty and without white space, at which "
                f"runs and qrels are split, got {docno!r:.80}"
            )
        if docno in seen:
            raise ValueError(f"docno {docno!r} occurs twice (again as document {number}): docnos must be unique")
        seen.add(docno)
        yield docno, document[key]
    if number < 0:
        raise ValueError("documents must hold at least one document, got none")


def checked_texts(documents: Any, field: str) -> Iterator[tuple[str, str]]:
    """(docno, text) of each document; see ``checked`` for errors."""
    for docno, text in checked(documents, field):
        if not isinstance(text, str) or has_surrogates(text):
            raise ValueError(
                f"document {docno!r}: {field!r} must be a string that UTF-8 can hold, got {text!r:.80}; drop the "
                "document or replace the value by ''"
            )
        yield docno, text


def query_weights(toks: Any, qid: Any, vocabulary: str | None) -> dict[str, float]:
    """The terms of weight > 0 of a query, {term: weight >= 0}, unscaled, for documents of a ``vocabulary``.

    Raises:
        TypeError: no dict of str -> number.
        ValueError: weights below 0 or not finite, scaled, or of another vocabulary.
    """
    if not isinstance(toks, Mapping) or not all(isinstance(term, str) for term in toks):
        raise TypeError(f"query_toks of query {qid!r} must be a dict of term (str) -> weight, got {toks!r:.80}")
    stamp = _stamp(toks)
    if stamp and vocabulary and stamp[0] != vocabulary:
        raise ValueError(
            f"query {qid!r} was encoded with another vocabulary ({stamp[0]}) than the documents ({vocabulary}): encode "
            "it again, with the query encoder of the model that encoded the documents"
        )
    if stamp and stamp[1] != 1:
        raise ValueError(
            f"query {qid!r} was encoded at scale {stamp[1]:g}, unscaled weights are needed: use query_encoder(scale=1)"
        )
    try:
        proper = all(map(math.isfinite, toks.values())) and min(toks.values(), default=0) >= 0
    except TypeError:  # no numbers
        proper = False
    if not proper:
        raise ValueError(f"query {qid!r}: weights must be finite numbers >= 0, got {toks!r:.200}")
    return {term: float(weight) for term, weight in toks.items() if weight > 0}


class ToksIntake:
    """Documents' ``toks`` ({term: int >= 1}) as blocks of vectors; terms get numbers as they come.

    Args:
        documents: see ``checked``.
        check_term: raises ``ValueError`` for a term that the engine cannot hold.
        scale: units per weight.
        any_scale: take the scale of the first weights that know it.
        old: what is added to.
    """

    def __init__(
        self, documents: Any, check_term: Callable[[str], Any], scale: float, any_scale: bool, old: Generation | None
    ) -> None:
        self._documents, self._check_term, self._scale, self._any_scale = documents, check_term, scale, any_scale
        #: Term -> column.
        self.vocabulary: dict[str, int] = dict(old.columns) if old else {}
        #: Of an encoder's vocabulary, where the weights know it.
        self.fingerprint: str | None = old.content["fingerprint"] if old else None
        self._held = old.docnos.to_pylist() if old else ()
        self._seen: tuple[str, float] | None = None  # the stamp of the documents before

    def blocks(self) -> Iterator[Block]:
        """All documents, some at a time; ``TypeError, KeyError, ValueError`` name one that cannot be indexed."""
        documents = checked(self._documents, "toks", self._held)
        while block := list(itertools.islice(documents, GROUP)):
            yield self._block(block)

    def _block(self, documents: list[tuple[str, Any]]) -> Block:
        known, columns, weights, indptr = len(self.vocabulary), [], [], [0]
        for docno, toks in documents:
            if not isinstance(toks, Mapping):
                raise TypeError(f"toks of document {docno!r} must be a dict of term -> int >= 1, got {toks!r:.80}")
            if (stamp := _stamp(toks)) and stamp != self._seen:
                self._check_stamp(*stamp, docno)
                self._seen = stamp
            columns += [self.vocabulary.setdefault(term, len(self.vocabulary)) for term in toks]
            weights += toks.values()
            indptr.append(len(columns))
        for term in itertools.islice(self.vocabulary, known, None):
            try:
                if not isinstance(term, str) or has_surrogates(term):
                    raise ValueError(f"a term must be a str of valid UTF-8, got {term!r}")
                self._check_term(term)
            except ValueError as error:
                docno = next(docno for docno, toks in documents if term in toks)
                raise ValueError(f"document {docno!r}: {error}") from None
        data = (_checked_weights(weights, documents) / self._scale).astype(np.float32)
        width = max(columns, default=0) + 1
        matrix = csr_matrix((data, np.array(columns, dtype=np.int32), np.array(indptr)), (len(documents), width))
        matrix.sort_indices()
        return Block([docno for docno, _ in documents], matrix)

    def _check_stamp(self, fingerprint: str, scale: float, docno: str) -> None:
        if self._any_scale and self._seen is None:
            self._scale = scale
        if not math.isclose(scale, self._scale, rel_tol=1e-4):
            raise ValueError(
                f"document {docno!r} was encoded at scale {scale:g}, the index is at scale {self._scale:g}: "
                f"use doc_encoder(scale={self._scale:g}) or open_index(..., scale={scale:g})"
            )
        if self.fingerprint not in (None, fingerprint):
            raise ValueError(
                f"document {docno!r} was encoded with another vocabulary ({fingerprint}) than the documents before it "
                f"({self.fingerprint})"
            )
        self.fingerprint = fingerprint


def _stamp(toks: Mapping) -> tuple[str, float] | None:
    """(vocabulary fingerprint, scale) of weights that an encoder made, which know both; None for plain dicts."""
    if stamp := getattr(toks, "vocab", None):
        fingerprint, _, scale = stamp.rpartition(":")
        return fingerprint, float(scale)
    return None


def _checked_weights(weights: list[Any], documents: list[tuple[str, Any]]) -> np.ndarray:
    """The weights of a block (P,), float64; ``ValueError`` names a document whose weights are no whole numbers >= 1."""
    try:
        values = np.array(weights).astype(np.float64, casting="safe")  # strings and None are not cast
        if ((values >= 1) & (values <= MAX_WEIGHT) & (values == np.rint(values))).all():
            return values
    except (TypeError, ValueError):
        pass
    docno, term, weight = next(
        (docno, term, weight) for docno, toks in documents for term, weight in toks.items()
        if not is_number(weight) or not 1 <= weight <= MAX_WEIGHT or weight != int(weight)
    )  # fmt: skip
    raise ValueError(
        f"document {docno!r}: the weight of a term must be an int from 1 to {MAX_WEIGHT}, got {weight!r} for {term!r}. "
        "doc_encoder(scale=100) makes such weights"
    )
