"""From a stream of documents to term-major postings on disk, in bounded memory."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUN_POSTINGS = 10_000_000  # postings sorted in memory at a time (about 160 MB)
JOIN_POSTINGS = 2_000_000  # postings of all runs joined in memory at a time (about 80 MB)
TERMS_FILE = "terms.json"
INDPTR_FILE = "indptr.npy"
DOCUMENTS_FILE = "documents.npy"
WEIGHTS_FILE = "weights.npy"


@dataclass
class Run:
    """Postings in the order of their terms, then documents; those of term i begin at starts[i].

    Attributes:
        terms: numbers of the terms (T,), ascending.
        counts: of their postings (T,).
        starts: of each term's postings (T,).
        documents: number of each posting's document (P,), memory-mapped.
        weights: of each posting (P,), memory-mapped.
    """

    terms: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    documents: np.ndarray
    weights: np.ndarray

    def renumber(self, places: np.ndarray) -> None:
        """Give term t the number places[t]."""
        terms = places[self.terms]
        order = np.argsort(terms)
        self.terms, self.counts, self.starts = terms[order], self.counts[order], self.starts[order]

    def release(self) -> None:
        """Let the system have the memory of what was read so far."""
        for values in (self.documents, self.weights):
            base = values
            while isinstance(base, np.ndarray):
                base = base.base
            if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                base.madvise(mmap.MADV_DONTNEED)


class Inverter:
    """Collects documents' postings in runs, each sorted by term and written out, and joins the runs at the end.

    Attributes:
        largest: weight of the runs written so far.

    Args:
        folder: where the index is written.
        run_postings: how many postings are held in memory.
    """

    def __init__(self, folder: Path, run_postings: int = RUN_POSTINGS):
        self.folder = folder
        self.run_postings = run_postings
        self.vocabulary: dict[str, int] = {}
        self.documents = 0
        self._runs: list[Run] = []
        self._files: list[Path] = []
        self.largest = 0
        self._start_run()

    def add(self, toks: dict[str, int]) -> None:
        """Add the next document's weights (ints that fit in 32 bits)."""
        vocabulary = self.vocabulary
        self._terms.extend([vocabulary.setdefault(term, len(vocabulary)) for term in toks])
        self._weights.extend(toks.values())
        self._lengths.append(len(toks))
        self.documents += 1
        if len(self._terms) >= self.run_postings:
            self._write_run()

    def start_from(self, path: Path, documents: int) -> None:
        """Begin with the postings of a finished index, which are read where they are."""
        self.vocabulary, indptr, numbers, weights = self.read(path)
        self.documents = documents
        self.largest = 2**16 if weights.dtype == np.uint32 else 0
        counts = np.diff(indptr)
        terms = np.flatnonzero(counts)
        if len(terms):
            self._runs.append(Run(terms, counts[terms], indptr[terms], numbers, weights))
        self._start_run()

    def finish(self, *, sort_terms: bool = False) -> None:
        """Join the runs into the index's files.

        Args:
            sort_terms: number the terms in their order as strings, not in that of their first occurrence.
        """
        if self._lengths:
            self._write_run()
        if sort_terms:
            names = sorted(self.vocabulary)
            places = np.empty(len(names), dtype=np.int32)
            places[[self.vocabulary[name] for name in names]] = np.arange(len(names), dtype=np.int32)
            for run in self._runs:
                run.renumber(places)
            self.vocabulary = {name: number for number, name in enumerate(names)}
        counts = np.zeros(len(self.vocabulary), dtype=np.int64)
        for run in self._runs:
            counts[run.terms] += run.counts
        indptr = np.concatenate([[0], np.cumsum(counts)])
        dtype = np.uint16 if self.largest < 2**16 else np.uint32
        with open(self.folder / DOCUMENTS_FILE, "wb") as documents, open(self.folder / WEIGHTS_FILE, "wb") as weights:
            for out, kind in ((documents, np.int32), (weights, dtype)):
                header = np.empty((0,), dtype=kind)
                np.lib.format.write_array_header_1_0(
                    out, {**np.lib.format.header_data_from_array_1_0(header), "shape": (int(indptr[-1]),)}
                )
            for numbers, values in self._joined(indptr):
                documents.write(numbers.astype(np.int32, copy=False).data)
                weights.write(values.astype(dtype, copy=False).data)
        np.save(self.folder / INDPTR_FILE, indptr)
        with open(self.folder / TERMS_FILE, "w", encoding="utf-8") as out:
            json.dump(list(self.vocabulary), out)
        self._runs.clear()
        for file in self._files:
            file.unlink()

    @staticmethod
    def read(path: Path) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        """(term -> number, indptr (V+1,), document of each posting, weight of each posting) of a finished index."""
        with open(path / TERMS_FILE, encoding="utf-8") as file:
            vocabulary = {term: number for number, term in enumerate(json.load(file))}
        indptr = np.load(path / INDPTR_FILE)
        mode = "r" if indptr[-1] else None  # an empty file cannot be mapped
        # Plain arrays on the mapped memory: slicing a memmap object costs as much as a short posting list.
        documents, weights = (
            np.load(path / name, mmap_mode=mode).view(np.ndarray) for name in (DOCUMENTS_FILE, WEIGHTS_FILE)
        )
        return vocabulary, indptr, documents, weights

    @staticmethod
    def remove(path: Path) -> None:
        """Remove what `finish` wrote."""
        for name in (TERMS_FILE, INDPTR_FILE, DOCUMENTS_FILE, WEIGHTS_FILE):
            (path / name).unlink()

    def _start_run(self) -> None:
        self._first = self.documents
        self._terms, self._weights, self._lengths = array("i"), array("i"), array("i")

    def _write_run(self) -> None:
        terms = np.frombuffer(self._terms, dtype=np.int32)
        weights = np.frombuffer(self._weights, dtype=np.int32)
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        if len(weights):  # else documents without terms only; and an empty file cannot be mapped
            documents = np.repeat(np.arange(self._first, self._first + len(lengths), dtype=np.int32), lengths)
            order = np.argsort(terms, kind="stable")
            distinct, counts = np.unique(terms, return_counts=True)
            self.largest = max(self.largest, int(weights.max()))
            number, mapped = len(self._files) // 2, []
            for name, values in (("documents", documents), ("weights", weights)):
                file = self.folder / f"run-{number}-{name}.npy"
                np.save(file, values[order])
                self._files.append(file)
                mapped.append(np.load(file, mmap_mode="r").view(np.ndarray))
            self._runs.append(Run(distinct, counts, np.cumsum(counts) - counts, *mapped))
        self._start_run()

    def _joined(self, indptr: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The postings of all runs, ordered by term, then by document, in parts: (documents, weights)."""
        first = 0
        while first < len(indptr) - 1:
            last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + JOIN_POSTINGS, side="right")) - 1)
            if indptr[last] - indptr[first] > JOIN_POSTINGS:
                yield from self._postings_of_term(first)
            else:
                yield self._postings_of_terms(first, indptr[first : last + 1] - indptr[first])
            for run in self._runs:
                run.release()
            first = last

    def _postings_of_terms(self, first: int, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The postings of terms first, first + 1, ..., which begin at indptr."""
        documents = np.empty(indptr[-1], dtype=np.int32)
        weights = np.empty(indptr[-1], dtype=np.uint32)
        filled = indptr[:-1].copy()
        for run in self._runs:
            part = slice(*np.searchsorted(run.terms, [first, first + len(filled)]))
            terms, counts, starts = run.terms[part] - first, run.counts[part], run.starts[part]
            numbers = np.arange(counts.sum())
            begins = np.cumsum(counts) - counts
            # The posting at place p among its term's lies at starts[term] + p, and belongs at filled[term] + p.
            source, target = (np.repeat(at - begins, counts) + numbers for at in (starts, filled[terms]))
            documents[target] = run.documents[source]
            weights[target] = run.weights[source]
            filled[terms] += counts
        return documents, weights

    def _postings_of_term(self, term: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The postings of a single term, of any number."""
        for run in self._runs:
            at = int(np.searchsorted(run.terms, term))
            if at == len(run.terms) or run.terms[at] != term:
                continue
            start, end = int(run.starts[at]), int(run.starts[at] + run.counts[at])
            for a in range(start, end, JOIN_POSTINGS):
                part = slice(a, min(a + JOIN_POSTINGS, end))
                yield run.documents[part], run.weights[part]
