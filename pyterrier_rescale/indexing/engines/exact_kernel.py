"""The loops of engine "exact", compiled by numba at the first query (kept on disk) and run without Python's lock."""

from __future__ import annotations

import numpy as np
from numba import njit

# Of a score: what `order_by_score` may round to a tie with it.
_NEARLY = 1 - 1e-9


@njit(nogil=True, cache=True)
def _score(scores, documents, weights, begins, ends, query):  # noqa: ANN001, ANN202
    for term in range(len(query)):
        for place in range(begins[term], ends[term]):
            scores[documents[place]] += query[term] * weights[place]


def score(
    scores: np.ndarray, documents: np.ndarray, weights: np.ndarray, begins: np.ndarray, ends: np.ndarray, query: list
) -> None:
    """Add to the scores of all documents (N,) the products of the query's weights (T,) with each term's postings.

    Args:
        scores: changed in place.
        documents: document of each posting (P,).
        weights: of each posting (P,).
        begins: where the postings of each of the query's terms begin (T,).
        ends: where they end (T,).
        query: weight of each term (T,).
    """
    _score(scores, documents, weights, begins, ends, np.array(query))


@njit(nogil=True, cache=True)
def best(scores, k):  # noqa: ANN001, ANN201
    """All documents with a score > 0 that is nearly the k-th best or better; the scores are zeros afterwards.

    A heap of the k best holds the threshold.
    """
    heap = np.zeros(k)
    for value in scores:
        if value > heap[0]:
            place = 0
            while True:  # sift down
                child = 2 * place + 1
                if child >= k:
                    break
                if child + 1 < k and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= value:
                    break
                heap[place] = heap[child]
                place = child
            heap[place] = value
    threshold = heap[0] * _NEARLY
    count = 0
    for value in scores:
        count += value > 0 and value >= threshold
    numbers, found, place = np.empty(count, np.int64), np.empty(count), 0
    for number in range(len(scores)):
        value = scores[number]
        if value > 0 and value >= threshold:
            numbers[place], found[place] = number, value
            place += 1
        scores[number] = 0
    return numbers, found
