"""Sparsity as a choice: a text's heaviest terms, and no term below a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from .._utils.checks import check_integer, check_number


def check_pruning(max_terms: Any, min_weight: Any) -> tuple[int | None, float]:
    """The two settings, checked: an integer >= 1 or ``None``, and a finite number >= 0."""
    least = float(check_number("min_weight", min_weight, zero=True))
    return check_integer("max_terms", max_terms, optional=True), least


def prune(vectors: csr_matrix, max_terms: int | None = None, min_weight: float = 0.0) -> csr_matrix:
    """Each row's ``max_terms`` heaviest entries of at least ``min_weight``; of equal weights the lower column stays.

    Columns ascend within a row of ``vectors`` (N, V).
    """
    counts = np.diff(vectors.indptr)
    if min_weight <= 0 and (max_terms is None or not len(counts) or counts.max() <= max_terms):
        return vectors
    keep = vectors.data >= np.float32(min_weight)
    if max_terms is not None:
        rows = np.repeat(np.arange(len(counts)), counts)
        # Within a row: kept ones first, the heaviest first, then by column, which is their order already.
        order = np.lexsort((-vectors.data, rows))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - np.repeat(vectors.indptr[:-1], counts)
        keep &= place < max_terms
    return _kept(vectors, keep, vectors.data)


def whole_weights(vectors: csr_matrix, scale: float) -> csr_matrix:
    """The nearest ints to scale * weight, int64, those below 1 dropped: a zero weight corrupts a posting list."""
    # float64: 100 * a float32 weight near n + .5 must round the way numpy's rint of the product does
    data = np.rint(vectors.data.astype(np.float64) * scale).astype(np.int64)
    return _kept(vectors, data >= 1, data)


def _kept(vectors: csr_matrix, keep: np.ndarray, data: np.ndarray) -> csr_matrix:
    """The entries that ``keep`` (bool, one per entry) marks, with the values in ``data``."""
    kept = np.concatenate([[0], np.cumsum(keep)])
    return csr_matrix((data[keep], vectors.indices[keep], kept[vectors.indptr]), shape=vectors.shape)
