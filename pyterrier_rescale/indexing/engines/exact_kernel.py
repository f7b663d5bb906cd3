"""The loops of engine "exact", compiled by numba at the first query (kept on disk) and run without Python's lock."""

from __future__ import annotations

from heapq import heapreplace

import numpy as np
from numba import njit

BLOCK = 1 << 16  # documents scored at a time: their sums (512 kB) stay in the processor's caches
NEARLY = 1 - 1e-9  # of a score: what `ordered` may round to a tie with it


@njit(nogil=True, cache=True)
def search(indptr, documents, weights, bounds, terms, query, ranks, k):  # noqa: ANN001, ANN201
    """How many documents each query found (Q,); their numbers and scores, best first, ties by rank (N,).

    Term t's postings are ``documents[indptr[t]:indptr[t + 1]]``, ascending, and their ``weights``; query q has
    ``terms[bounds[q]:bounds[q + 1]]``, and their weights in ``query``.
    """
    counts, held = np.zeros(len(bounds) - 1, np.int64), 0
    numbers, scores = np.empty(k * len(counts), np.int64), np.empty(k * len(counts))
    for number in range(len(counts)):
        own = slice(bounds[number], bounds[number + 1])
        begins, ends = indptr[terms[own]], indptr[terms[own] + 1]
        found, theirs = best(documents, weights, begins, ends, query[own], len(ranks), k)
        found, theirs = ordered(found, theirs, ranks, k)
        counts[number] = len(found)
        numbers[held : held + len(found)], scores[held : held + len(found)] = found, theirs
        held += len(found)
    return counts, numbers[:held], scores[:held]


@njit(nogil=True, cache=True)
def best(documents, weights, begins, ends, query, count, k):  # noqa: ANN001, ANN201
    """All of ``count`` documents with a score > 0 that is nearly the k-th best or better, and their scores."""
    size = min(BLOCK, count)
    sums, places = np.zeros(size), begins.copy()
    heap = [0.0 for _ in range(k)]  # the k best scores so far, the least on top
    numbers, scores, held = np.empty(2 * k + size, np.int64), np.empty(2 * k + size), 0
    for first in range(0, count, BLOCK):
        for term in range(len(query)):
            begin = places[term]
            end = begin + np.searchsorted(documents[begin : ends[term]], first + size) if count > size else ends[term]
            for place in range(begin, end):
                sums[documents[place] - first] += query[term] * weights[place]
            places[term] = end
        for place in range(size):
            score = sums[place]
            if score >= heap[0] * NEARLY and score > 0:
                numbers[held], scores[held] = first + place, score
                held += 1
                if score > heap[0]:
                    heapreplace(heap, score)
        sums[:] = 0
        if held + size > len(numbers):  # drop what is no longer among the best; where most are ties, make room
            kept = scores[:held] >= heap[0] * NEARLY
            held = np.sum(kept)
            left = numbers[: len(kept)][kept], scores[: len(kept)][kept]
            room = max(len(numbers), 2 * (held + size))
            numbers, scores = np.empty(room, np.int64), np.empty(room)
            numbers[:held], scores[:held] = left
    kept = scores[:held] >= heap[0] * NEARLY
    return numbers[:held][kept], scores[:held][kept]


@njit(nogil=True, cache=True)
def ordered(numbers, scores, ranks, k):  # noqa: ANN001, ANN201
    """See ``order_by_score`` of engines/base.py."""
    if not len(scores):
        return numbers, scores
    decimals = 12 - np.ceil(np.log10(scores.max()))
    if 0 <= decimals <= 308:  # 1e309 is infinite: scores would become NaN
        scores = np.rint(scores * 10.0**decimals) / 10.0**decimals
    elif decimals < 0:
        scores = np.rint(scores / 10.0**-decimals) * 10.0**-decimals
    order = np.argsort(-scores)
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or scores[order[end]] != scores[order[begin]]:
            if end - begin > 1:
                tied = order[begin:end]
                order[begin:end] = tied[np.argsort(ranks[numbers[tied]])]
            begin = end
    return numbers[order[:k]], scores[order[:k]]
