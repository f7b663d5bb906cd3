"""The loops of engine "exact", compiled by numba at the first query (kept on disk) and run without Python's lock."""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 1 << 16  # documents scored at a time: their sums (512 kB) stay in the processor's caches
RUN = 64  # sums that are compared at a time
NEARLY = 1 - 1e-9  # of a score: what `ordered` may round to a tie with it


@njit(nogil=True, cache=True)
def search(indptr, documents, weights, bounds, terms, query, ranks, k):  # noqa: ANN001, ANN201
    """How many documents each query found (Q,); their numbers and scores, best first, ties by rank (N,).

    Term t's postings are ``documents[indptr[t]:indptr[t + 1]]``, ascending, and their ``weights``; query q has
    ``terms[bounds[q]:bounds[q + 1]]``, and their weights in ``query``.
    """
    counts, held = np.zeros(len(bounds) - 1, np.int64), 0
    numbers, scores = np.empty(k * len(counts), np.int64), np.empty(k * len(counts))
    room = np.zeros(min(BLOCK, -(-len(ranks) // RUN) * RUN)), np.empty(4 * (k + RUN), np.int64), np.empty(4 * (k + RUN))
    for number in range(len(counts)):
        own = slice(bounds[number], bounds[number + 1])
        begins, ends = indptr[terms[own]], indptr[terms[own] + 1]
        found, theirs = best(documents, weights, begins, ends, query[own], len(ranks), k, room)
        found, theirs = ordered(found, theirs, ranks, k)
        counts[number] = len(found)
        numbers[held : held + len(found)], scores[held : held + len(found)] = found, theirs
        held += len(found)
    return counts, numbers[:held], scores[:held]


@njit(nogil=True, cache=True)
def best(documents, weights, begins, ends, query, count, k, room):  # noqa: ANN001, ANN201
    """All of ``count`` documents with a score > 0 that is nearly the k-th best or better, and their scores."""
    sums, numbers, scores = room  # which the next query uses again: fresh memory would cost more than the sums
    size, places = len(sums), begins.copy()
    held, least = 0, 5e-324  # candidates, and what a score must have to be one
    for first in range(0, count, BLOCK):
        for term in range(len(query)):
            begin = places[term]
            end = begin + np.searchsorted(documents[begin : ends[term]], first + size) if count > size else ends[term]
            # slices, here and below: numba need not ask whether a place is negative
            own, theirs, weight = documents[begin:end], weights[begin:end], query[term]
            for place in range(len(own)):
                sums[own[place] - first] += weight * theirs[place]
            places[term] = end
        for begin in range(0, size, RUN):
            run, hits = sums[begin : begin + RUN], 0  # counted without a branch: several at a time
            for place in range(RUN):
                hits += run[place] >= least
            if not hits:
                continue
            if held + RUN > len(numbers):
                held, least = _fewer(numbers, scores, held, k)
                if 2 * held > len(numbers):  # most are ties
                    numbers = np.concatenate((numbers, np.empty_like(numbers)))
                    scores = np.concatenate((scores, np.empty_like(scores)))
            for place in range(RUN):  # written always, and kept if it counts: no branch again
                numbers[held], scores[held] = first + begin + place, run[place]
                held += run[place] >= least
        sums[:] = 0
    held, _ = _fewer(numbers, scores, held, k)
    return numbers[:held], scores[:held]


@njit(nogil=True, cache=True)
def _fewer(numbers, scores, held, k):  # noqa: ANN001, ANN202
    """Keep those that are nearly the k-th best or better, in place; return their number, and what they must have."""
    if held <= k:
        return held, 5e-324
    least, kept = np.partition(scores[:held], held - k)[held - k] * NEARLY, 0
    for place in range(held):
        if scores[place] >= least:
            numbers[kept], scores[kept] = numbers[place], scores[place]
            kept += 1
    return kept, least


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
