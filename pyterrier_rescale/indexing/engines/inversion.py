"""From a stream of documents to term-major postings on disk, in bounded memory."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import numpy as np

RUN_POSTINGS = 10_000_000  # postings sorted in memory at a time (about 160 MB)
TERMS_FILE = "terms.json"
INDPTR_FILE = "indptr.npy"
DOCUMENTS_FILE = "documents.npy"
WEIGHTS_FILE = "weights.npy"


class Inverter:
    """Collects documents' postings in runs, each sorted by term and written out, and joins the runs at the end.

    Args:
        folder: where the index is written.
        run_postings: how many postings are held in memory.
    """

    def __init__(self, folder: Path, run_postings: int = RUN_POSTINGS):
        self.folder = folder
        self.run_postings = run_postings
        self.vocabulary: dict[str, int] = {}
        self.documents = 0
        self._runs = 0
        self._largest = 0
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
        """Begin with the postings of a finished index."""
        self.vocabulary, indptr, numbers, weights = self.read(path)
        self.documents = documents
        counts = np.diff(indptr)
        self._save_run(np.flatnonzero(counts), counts[counts > 0], numbers, weights)
        self._start_run()

    def finish(self, *, sort_terms: bool = False) -> None:
        """Join the runs into the index's files.

        Args:
            sort_terms: number the terms in their order as strings, not in that of their first occurrence.
        """
        if self._lengths:
            self._write_run()
        runs = [
            [np.load(self.folder / f"run-{number}-{name}.npy") for name in "tc"]
            + [np.load(self.folder / f"run-{number}-{name}.npy", mmap_mode="r") for name in "dw"]
            for number in range(self._runs)
        ]
        if sort_terms:
            names = sorted(self.vocabulary)
            places = np.empty(len(names), dtype=np.int32)
            places[[self.vocabulary[name] for name in names]] = np.arange(len(names), dtype=np.int32)
            for run in runs:
                run[0] = places[run[0]]
            self.vocabulary = {name: number for number, name in enumerate(names)}
        counts = np.zeros(len(self.vocabulary), dtype=np.int64)
        for terms, run_counts, _, _ in runs:
            counts[terms] += run_counts
        indptr = np.concatenate([[0], np.cumsum(counts)])
        dtype = np.uint16 if self._largest < 2**16 else np.uint32
        documents = self._create(DOCUMENTS_FILE, np.int32, indptr[-1])
        weights = self._create(WEIGHTS_FILE, dtype, indptr[-1])
        filled = indptr[:-1].copy()
        for terms, run_counts, run_documents, run_weights in runs:
            starts = np.cumsum(run_counts) - run_counts
            # Posting i of the run belongs at filled[its term] + its place among the term's postings.
            targets = np.repeat(filled[terms] - starts, run_counts) + np.arange(len(run_documents))
            documents[targets] = run_documents
            weights[targets] = run_weights
            filled[terms] += run_counts
        for mapped in (documents, weights):
            if isinstance(mapped, np.memmap):
                mapped.flush()
        if not isinstance(documents, np.memmap):
            np.save(self.folder / DOCUMENTS_FILE, documents)
            np.save(self.folder / WEIGHTS_FILE, weights)
        np.save(self.folder / INDPTR_FILE, indptr)
        with open(self.folder / TERMS_FILE, "w", encoding="utf-8") as out:
            json.dump(list(self.vocabulary), out)
        del runs
        for file in self.folder.glob("run-*.npy"):
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
        documents = np.repeat(np.arange(self._first, self._first + len(lengths), dtype=np.int32), lengths)
        order = np.argsort(terms, kind="stable")
        distinct, counts = np.unique(terms, return_counts=True)
        self._save_run(distinct, counts, documents[order], weights[order])
        self._start_run()

    def _save_run(self, terms: np.ndarray, counts: np.ndarray, documents: np.ndarray, weights: np.ndarray) -> None:
        if not len(weights):
            return  # documents without terms only; and an empty file cannot be mapped
        self._largest = max(self._largest, int(weights.max(initial=0)))
        for name, part in zip("tcdw", (terms, counts, documents, weights), strict=True):
            np.save(self.folder / f"run-{self._runs}-{name}.npy", part)
        self._runs += 1

    def _create(self, name: str, dtype: type, length: int) -> np.ndarray:
        if not length:
            return np.empty(0, dtype=dtype)
        return np.lib.format.open_memmap(self.folder / name, mode="w+", dtype=dtype, shape=(int(length),))
