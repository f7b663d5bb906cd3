"""The loops of engine "exact", compiled by numba at the first query (kept on disk) and run without Python's lock."""

from __future__ import annotations

from heapq import heapreplace

import numpy as np
from numba import njit

# Of a score: what `order_by_score` may round to a tie with it.
_NEARLY = 1 - 1e-9


@njit(nogil=True, cache=True)
def score(scores, documents, weights, begins, ends, query):  # noqa: ANN001, ANN201
    """Add to the scores of all documents (N,) the products of the query's weights (T,) with each term's postings.

    ``documents`` and ``weights`` are those of all postings (P,); those of a term lie from ``begins`` to ``ends`` (T,).
    """
    for term in range(len(query)):
        for place in range(begins[term], ends[term]):
            scores[documents[place]] += query[term] * weights[place]


@njit(nogil=True, cache=True)
def best(scores, k):  # noqa: ANN001, ANN201
    """All documents with a score > 0 that is nearly the k-th best or better."""
    heap = [0.0] * k  # the k best so far
    for value in scores:
        if value > heap[0]:
            heapreplace(heap, value)
    threshold = heap[0] * _NEARLY
    numbers = np.flatnonzero((scores > 0) & (scores >= threshold))
    return numbers, scores[numbers]
