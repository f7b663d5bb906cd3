"""The stream of documents on its way into an engine: checked one by one, counted, never silently cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..._utils.checks import is_number
from ..._utils.documents import as_documents
from ..._utils.text_lines import has_surrogates

MAX_WEIGHT = 2**24 - 1  # integers up to here are exact in float32
MAX_SUM = 2**31 - 1  # of a document's weights, its length to Terrier and PISA
MAX_DOCNO = 10_000


def parse_stamp(toks: Mapping) -> tuple[str, float] | None:
    """(vocabulary fingerprint, scale) of weights that know them: the encoders' dicts have `vocab` "fingerprint:scale".

    Returns:
        None for plain dicts.

    Raises:
        ValueError: `vocab` has another form.
    """
    stamp = getattr(toks, "vocab", None)
    if stamp is None:
        return None
    fingerprint, _, scale = str(stamp).rpartition(":")
    try:
        return fingerprint, float(scale)
    except ValueError:
        raise ValueError(f"toks.vocab must look like '<fingerprint>:<scale>', got {stamp!r}") from None


class NoTermsError(ValueError):
    """No document has any term, and the engine cannot hold an index without one."""


class DocumentStream:
    """Checks documents and passes them on as (docno, toks) with plain ints; counts what went through.

    Attributes:
        docnos: of the documents passed on, in order.
        postings: how many (document, term) pairs went through.
        weight_sum: the sum of their weights.
        fingerprint: of the vocabulary, if the weights know it (see `parse_stamp`).

    Args:
        docs: dicts with docno (str) and toks ({term: int >= 1}), or a frame or Hugging Face Dataset of them.
        check_term: raises ValueError for a term that the engine cannot hold; asked once per term.
        scale: of the index; must be the encoder's, if the weights know it.
    """

    def __init__(self, docs: Iterable[Mapping], check_term: Callable[[str], None], scale: float):
        self.docs = as_documents(docs)
        self.check_term = check_term
        self.scale = scale
        self.any_scale = False  # whether the first weights that know their scale set it
        self.docnos: list[str] = []
        self.postings = 0
        self.weight_sum = 0
        self.fingerprint: str | None = None
        self._stamp: Any = None
        self._terms: set[str] = set()

    def resume(self, docnos: list[str], meta: dict) -> None:
        """Count on from a finished index (its docnos and metadata)."""
        self.docnos = docnos
        self.postings, self.weight_sum = meta["postings"], meta["weight_sum"]
        self.fingerprint = meta["fingerprint"]

    def __iter__(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield (docno, toks).

        Raises:
            TypeError, ValueError, KeyError: a document that cannot be indexed (the message names it and the reason),
                or no documents at all.
        """
        seen = set(self.docnos)
        for number, doc in enumerate(self.docs):
            docno = self._docno(doc, number)
            if docno in seen:
                raise ValueError(f"docno {docno!r} occurs twice (again as document {number}); docnos must be unique")
            seen.add(docno)
            toks = self._toks(doc, docno)
            self._check_stamp(doc["toks"], docno)
            self.docnos.append(docno)
            self.postings += len(toks)
            yield docno, toks
        if not self.docnos:
            raise ValueError("there are no documents to index: the stream was empty")

    def require_terms(self) -> None:
        """Raise NoTermsError if all documents were empty, for engines that cannot write an index without terms."""
        if not self.postings:
            raise NoTermsError("no document has any term (toks is empty in all of them)")

    def _docno(self, doc: Mapping, number: int) -> str:
        if not isinstance(doc, Mapping):
            raise TypeError(f"document {number} must be a dict with docno and toks, got {type(doc).__name__}")
        for key in ("docno", "toks"):
            if key not in doc:
                raise KeyError(f"document {number} has no {key!r} (it has {sorted(map(str, doc))})")
        return check_docno(doc["docno"], number)

    def _toks(self, doc: Mapping, docno: str) -> dict[str, int]:
        toks = doc["toks"]
        if not isinstance(toks, Mapping):
            raise TypeError(f"toks of document {docno!r} must be a dict of term -> int >= 1, got {toks!r}")
        if not self._terms.issuperset(toks):
            self._check_new_terms(toks, docno)
        toks = _plain_weights(toks, docno)
        total = sum(toks.values())
        if total > MAX_SUM:
            raise ValueError(f"document {docno!r}: the weights sum to {total}, the engines hold sums up to {MAX_SUM}")
        self.weight_sum += total
        return toks

    def _check_new_terms(self, toks: Mapping, docno: str) -> None:
        for term in toks.keys() - self._terms:
            if not isinstance(term, str):
                raise TypeError(f"document {docno!r}: a term must be a str, got {term!r}")
            try:
                check_utf8(term, "the term")
                self.check_term(term)
            except ValueError as error:
                raise ValueError(f"document {docno!r}: {error}") from None
            self._terms.add(term)

    def _check_stamp(self, toks: Mapping, docno: str) -> None:
        stamp = getattr(toks, "vocab", None)
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        fingerprint, scale = parse_stamp(toks)
        if self.any_scale and not self.docnos:
            self.scale = scale
        if not math.isclose(scale, self.scale, rel_tol=1e-4):
            raise ValueError(
                f"document {docno!r} was encoded at scale {scale:g}, the index is at scale {self.scale:g}: "
                f"use doc_encoder(scale={self.scale:g}) or open_index(..., scale={scale:g})"
            )
        if self.fingerprint is not None and fingerprint != self.fingerprint:
            raise ValueError(
                f"document {docno!r} was encoded with another vocabulary ({fingerprint}) than the documents before it "
                f"({self.fingerprint})"
            )
        self.fingerprint = fingerprint


def _plain_weights(toks: Mapping, docno: str) -> dict[str, int]:
    """The weights as Python ints, which is what they are mostly."""
    values = toks.values()
    if set(map(type, values)) <= {int} and isinstance(toks, dict):
        if not toks or (min(values) >= 1 and max(values) <= MAX_WEIGHT):
            return toks
    for term, value in toks.items():
        if not _is_weight(value):
            raise ValueError(
                f"document {docno!r}: the weight of a term must be an int from 1 to {MAX_WEIGHT}, got {value!r} for "
                f"{term!r}. doc_encoder(scale=100) makes such weights: times the scale, rounded, zeros dropped"
            )
    return {term: int(value) for term, value in toks.items()}


def _is_weight(value: Any) -> bool:
    return is_number(value) and 1 <= value <= MAX_WEIGHT and float(value).is_integer()


def check_docno(docno: Any, number: int) -> str:
    """The docno of a document, by its number; TypeError or ValueError unless it is a str that every engine holds."""
    if not isinstance(docno, str):
        raise TypeError(f"docno of document {number} must be a str, got {docno!r}")
    if len(docno) > MAX_DOCNO or "\0" in docno or docno.split() != [docno]:
        raise ValueError(
            f"docno of document {number} must have 1 to {MAX_DOCNO} characters with no line break and no other white "
            f"space, at which the columns of runs and qrels are split, got {docno[:80]!r}"
        )
    check_utf8(docno, f"docno of document {number}")
    return docno


def check_utf8(text: str, what: str) -> None:
    """Raise ValueError for a text with half a character."""
    if has_surrogates(text):
        raise ValueError(f"{what} cannot be written as UTF-8: {text!r}")
