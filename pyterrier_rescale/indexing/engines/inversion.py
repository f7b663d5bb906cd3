"""From document-major vectors to term-major postings, in memory-mapped files and bounded memory."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from scipy.sparse import vstack

from ..generation import Generation


def invert(folder: Path, generation: Generation) -> None:
    """Write ``indptr.npy`` (V+1,), ``documents.npy`` and ``weights.npy`` (P,): by term, then by document number."""
    indptr = np.concatenate([[0], np.cumsum(generation.document_frequencies)])
    kinds = {"documents": np.int32, "weights": np.uint16 if generation.largest < 2**16 else np.uint32}
    # an entry more than there are postings, since empty files cannot be mapped
    documents, weights = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (int(indptr[-1]) + 1,))
        for name, kind in kinds.items()
    )
    place, first, blocks = indptr[:-1].copy(), 0, generation.whole_blocks()
    while part := list(itertools.islice(blocks, 16)):  # some millions of postings, about 100 MB
        by_term = vstack(part, format="csc")
        counts = np.diff(by_term.indptr)
        target = np.repeat(place - by_term.indptr[:-1], counts) + np.arange(by_term.nnz)
        documents[target], weights[target] = by_term.indices + first, by_term.data
        place += counts
        first += by_term.shape[0]
    np.save(folder / "indptr.npy", indptr)
    documents.flush()
    weights.flush()


def read_inverted(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indptr, documents, weights) as ``invert`` wrote them; the last two are mapped."""
    # plain arrays on the mapped memory: slicing a memmap object costs as much as a short posting list
    documents, weights = (
        np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ("documents", "weights")
    )
    return np.load(folder / "indptr.npy"), documents, weights
