"""What a sample keeps: chosen by stable hashes, the same on every machine."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection as Container
from collections.abc import Iterable


def stable_rank(seed: int, kind: str, identifier: str) -> int:
    """Return a 64-bit number that depends on the arguments alone, not on the process or machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{kind}:{identifier}".encode(), digest_size=8).digest(), "big")


def choose_qids(qids: Iterable[str], n: int, seed: int) -> frozenset[str]:
    """Choose n qids."""
    return frozenset(sorted(qids, key=lambda qid: stable_rank(seed, "qid", qid))[:n])


def choose_docnos(docnos: Iterable[str], relevant: Container[str], n: int, seed: int) -> frozenset[str]:
    """Choose n docnos, first the relevant ones among them; one pass that remembers no more than are chosen.

    Raises:
        ValueError: if more than n are relevant.
    """
    present: set[str] = set()

    def others() -> Iterable[str]:
        for docno in docnos:
            if docno in relevant:
                present.add(docno)
            else:
                yield docno

    fill = heapq.nsmallest(n, others(), key=lambda docno: (stable_rank(seed, "docno", docno), docno))
    if len(present) > n:
        raise ValueError(
            f"n_docs must be at least {len(present)}, the number of documents relevant to the kept topics, "
            f"got {n}: ask for more documents or fewer topics"
        )
    return frozenset(present.union(fill[: n - len(present)]))
