"""A Terrier inverted file read back into arrays, without Java: the inverse of `terrier_files`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .postings import Postings
from .terrier_files import LEXICON_ENTRY

CHUNK_BITS = 2**25  # decoded in memory at a time (about 400 MB)


def read_postings(folder: Path) -> Postings:
    """All postings of an index that `terrier_files` wrote.

    The terms are decoded side by side, a posting of each at a time: some seconds for 50,000 documents, and in
    proportion to the number of documents beyond that.
    """
    entries = np.fromfile(folder / "data.lexicon.fsomapfile", dtype=LEXICON_ENTRY)
    terms = np.array([term.decode("utf-8") for term in entries["term"].tolist()], dtype=object)
    counts = entries["documents"].astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    data = np.memmap(folder / "data.inverted.bf", dtype=np.uint8, mode="r")
    starts = entries["byte"].astype(np.int64) * 8 + entries["bit"]
    ends = np.append(starts[1:], len(data) * 8)
    documents, weights = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.int32)
    first = 0
    while first < len(terms):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + CHUNK_BITS, side="right")))
        byte = int(starts[first] >> 3)
        part = np.asarray(data[byte : int(ends[last - 1] + 7) >> 3])
        places = (indptr[first:last], counts[first:last])
        _decode(part, starts[first:last] - byte * 8, *places, documents, weights)
        first = last
    return Postings(terms, indptr, documents, weights)


def _decode(
    data: np.ndarray, starts: np.ndarray, places: np.ndarray, counts: np.ndarray, documents: np.ndarray,
    weights: np.ndarray,
) -> None:  # fmt: skip
    """Fill in the postings of terms that begin at bits `starts` of the data, and go to `places` of the arrays."""
    bits = np.unpackbits(data)
    ones = np.flatnonzero(bits)
    up_to = np.cumsum(bits, dtype=np.int32)  # how many ones there are up to a bit, itself included
    padded = np.concatenate([data, np.zeros(5, dtype=np.uint8)]).astype(np.int64)
    windows = sum(padded[i : i + len(data)] << (32 - 8 * i) for i in range(5))  # forty bits from each byte on
    order = np.argsort(-counts, kind="stable")
    begin, place, counts = starts[order], places[order], counts[order]
    one = np.searchsorted(ones, begin)
    document = np.full(len(order), -1, dtype=np.int64)
    for number in range(int(counts[0]) if len(counts) else 0):
        active = int(np.searchsorted(-counts, -number, side="left"))  # those of more than `number` postings
        begin, place, one, document = begin[:active], place[:active], one[:active], document[:active]
        head = ones[one]
        digits = head - begin + 1
        gap = (windows[head >> 3] >> (40 - (head & 7) - digits)) & ((1 << digits) - 1)
        tail = head + digits - 1  # the gap's last bit
        one = up_to[tail]
        end = ones[one]
        document = document + gap
        documents[place + number] = document
        weights[place + number] = end - tail
        begin, one = end + 1, one + 1
        if number + 1 < counts[0]:
            one = np.minimum(one, len(ones) - 1)  # of terms that end here
