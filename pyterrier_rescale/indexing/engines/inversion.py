"""From document-major vectors to term-major postings, in memory-mapped files and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from ..generation import Generation

# Postings sorted in memory at a time (about 100 MB).
PART_POSTINGS = 4_000_000


def invert(folder: Path, generation: Generation) -> None:
    """Write ``indptr.npy`` (V+1,), ``documents.npy`` and ``weights.npy`` (P,): by term, then by document number."""
    indptr = np.concatenate([[0], np.cumsum(generation.document_frequencies)])
    largest = max((int(vectors.data.max(initial=0)) for vectors in generation.whole_blocks()), default=0)
    documents = _array(folder / "documents.npy", np.int32, int(indptr[-1]))
    weights = _array(folder / "weights.npy", np.uint16 if largest < 2**16 else np.uint32, int(indptr[-1]))
    place, first = indptr[:-1].copy(), 0
    for vectors in _parts(generation):
        by_term = vectors.tocsc()
        counts = np.diff(by_term.indptr)
        target = np.repeat(place - by_term.indptr[:-1], counts) + np.arange(by_term.nnz)
        documents[target], weights[target] = by_term.indices + first, by_term.data
        place += counts
        first += vectors.shape[0]
    np.save(folder / "indptr.npy", indptr)
    for array in (documents, weights):
        if isinstance(array, np.memmap):
            array.flush()


def read_inverted(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, documents, weights) as ``invert`` wrote them; the last two are mapped."""
    indptr = np.load(folder / "indptr.npy")
    mode = "r" if indptr[-1] else None  # an empty file cannot be mapped
    # plain arrays on the mapped memory: slicing a memmap object costs as much as a short posting list
    documents, weights = (
        np.load(folder / f"{name}.npy", mmap_mode=mode).view(np.ndarray) for name in ("documents", "weights")
    )
    return indptr, documents, weights


def _array(file: Path, dtype: type, size: int) -> np.ndarray:
    if not size:
        np.save(file, np.empty(0, dtype=dtype))
        return np.empty(0, dtype=dtype)
    return np.lib.format.open_memmap(file, "w+", dtype, (size,))


def _parts(generation: Generation) -> Iterator[csr_matrix]:
    """The vectors, some millions of postings at a time."""
    held: list[csr_matrix] = []
    for vectors in generation.whole_blocks():
        held.append(vectors)
        if sum(part.nnz for part in held) >= PART_POSTINGS:
            yield vstack(held, format="csr")
            held = []
    if held:
        yield vstack(held, format="csr")
