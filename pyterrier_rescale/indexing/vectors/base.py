"""Document vectors, wherever they are kept: what engines, exports and people ask of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..._utils.checks import check_number
from ...encoding.pruning import check_pruning, prune, whole_weights
from ...encoding.terms import to_toks

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from ..rescoring import VectorFeedback, VectorScorer


class Block(NamedTuple):
    """Some documents' vectors.

    Attributes:
        docnos: of n documents.
        vectors: their weights, shape (n, V), float32; column = number of the term.
    """

    docnos: list[str]
    vectors: csr_matrix


class SparseVectors:
    """Term weights of documents, in order. Subclasses say where they come from.

    Attributes:
        terms: the terms as engines hold them, (V,), by column.
        readable: the same for people.
        vocabulary: fingerprint of the terms, or None.
        quantised: units per weight where weights were rounded to such units (read back from an index), or None.
        made_from: what the vectors come from, for the index that is made of them, or None.
    """

    terms: np.ndarray
    readable: np.ndarray
    vocabulary: str | None
    quantised: float | None = None
    made_from: dict[str, Any] | None = None

    def __len__(self) -> int:
        """The number of documents."""
        raise NotImplementedError

    def blocks(self) -> Iterator[Block]:
        """All documents in order, some thousands at a time."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        """True, whatever the number of documents."""
        return True

    def documents(self, scale: float | None = None) -> Iterator[dict[str, Any]]:
        """Documents as indexers take them: ``docno`` and ``toks`` ({term: rounded int(scale * weight) >= 1}).

        Args:
            scale: units per weight; default: that of the rounded weights, else 100.
        """
        scale = self.quantised or 100.0 if scale is None else check_number("scale", scale)
        stamp = None if self.vocabulary is None else f"{self.vocabulary}:{scale:g}"
        for docnos, vectors in self.blocks():
            rows = whole_weights(vectors, scale)
            toks = to_toks(self.terms, rows.indptr, rows.indices, rows.data, vocab=stamp)
            for docno, weights in zip(docnos, toks, strict=True):
                yield {"docno": docno, "toks": weights if stamp else dict(weights)}

    def origin(self, scale: float | None) -> dict[str, Any] | None:
        """What an index of these vectors at a scale is made from: ``made_from``, and what they were rounded to before.

        Args:
            scale: units per weight of the index; None: those that it chooses by bits.
        """
        if self.made_from is None or self.quantised in (None, scale):
            return self.made_from
        return {**self.made_from, "quantised": self.quantised}

    def to_csr(self) -> csr_matrix:
        """All vectors in memory, shape (N, V), float32, rows in the order of ``docnos``."""
        from scipy.sparse import csr_matrix, vstack

        parts = [vectors for _, vectors in self.blocks()]
        return vstack(parts, format="csr") if parts else csr_matrix((0, len(self.terms)), dtype=np.float32)

    @cached_property
    def docnos(self) -> list[str]:
        """The docnos, in order."""
        return [docno for docnos, _ in self.blocks() for docno in docnos]

    @cached_property
    def places(self) -> pd.Index:
        """Docnos as a pandas index, which finds a docno's row."""
        import pandas as pd

        return pd.Index(self.docnos, dtype=object)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column by term: the inverse of ``terms``."""
        return {term: number for number, term in enumerate(self.terms)}

    @property
    def scale(self) -> float | None:
        """Units per weight where weights were rounded to such units, or None."""
        return self.quantised

    def rows(self, docnos: Any) -> csr_matrix:
        """Vectors of documents, shape (n, V).

        Raises:
            KeyError: there is no such document.
        """
        import pandas as pd

        docnos = pd.Index(docnos, dtype=object)
        places = self.places.get_indexer(docnos)
        if (places < 0).any():
            docno = docnos[int(np.flatnonzero(places < 0)[0])]
            raise KeyError(f"{docno!r} is not among the {len(self):,} vectors of {self!r}")
        return self._held[places]

    @cached_property
    def _held(self) -> csr_matrix:
        return self.to_csr()

    def vector(self, docno: str) -> csr_matrix:
        """One document's vector, shape (1, V).

        Raises:
            KeyError: there is no such document.
        """
        return self._row(self._place(docno))

    def top_terms(self, docno: str, n: int = 10) -> list[tuple[str, float]]:
        """The n heaviest terms of a document with their weights, readable, heaviest first.

        Raises:
            KeyError: there is no such document.
        """
        row = self.vector(docno)
        best = np.lexsort((row.indices, -row.data))[:n]
        return [(str(self.readable[row.indices[i]]), float(row.data[i])) for i in best]

    def stats(self, *, scale: float | None = None, top: int = 20) -> dict[str, Any]:
        """What engines have to hold, in one pass.

        Args:
            scale: units per weight for what depends on rounding; default: as ``documents``.
            top: how many frequent terms are named.

        Returns:
            documents, postings, terms (that occur), empty (documents without terms), active_mean, active_p99,
            active_max (active terms per document), weight_mean, weight_max, scale, dropped (share of weights that
            round to zero at this scale), clipped_8bit (share of those that round to more than 255), frequent_terms
            ({readable term: documents that have it}, the most frequent first).
        """
        scale = self.quantised or 100.0 if scale is None else check_number("scale", scale)
        active, frequencies = np.zeros(1, dtype=np.int64), np.zeros(len(self.terms), dtype=np.int64)
        total, largest, dropped, clipped = 0.0, 0.0, 0, 0
        for _, vectors in self.blocks():
            counted = np.bincount(np.diff(vectors.indptr), minlength=len(active))
            counted[: len(active)] += active
            active = counted
            frequencies += np.bincount(vectors.indices, minlength=len(frequencies))
            total += float(vectors.data.sum(dtype=np.float64))
            largest = max(largest, float(vectors.data.max(initial=0)))
            rounded = np.rint(vectors.data.astype(np.float64) * scale)
            dropped += int((rounded < 1).sum())
            clipped += int((rounded > 255).sum())
        documents, postings = int(active.sum()), int(frequencies.sum())
        order = np.argsort(-frequencies, kind="stable")[:top]
        reached = np.cumsum(active) >= math.ceil(0.99 * documents)
        return {
            "documents": documents,
            "postings": postings,
            "terms": int((frequencies > 0).sum()),
            "empty": int(active[0]),
            "active_mean": postings / documents if documents else 0.0,
            "active_p99": int(reached.argmax()),
            "active_max": len(active) - 1 if documents else 0,
            "weight_mean": total / postings if postings else 0.0,
            "weight_max": largest,
            "scale": scale,
            "dropped": dropped / postings if postings else 0.0,
            "clipped_8bit": clipped / postings if postings else 0.0,
            "frequent_terms": {str(self.readable[i]): int(frequencies[i]) for i in order if frequencies[i]},
        }

    def pruned(self, max_terms: int | None = None, min_weight: float = 0.0) -> PrunedVectors:
        """The same documents with their heaviest terms only, read from these vectors as they are asked for.

        Args:
            max_terms: terms kept per document; default: all.
            min_weight: terms of less weight are dropped.
        """
        return PrunedVectors(self, max_terms, min_weight)

    def scorer(self, *, verbose: bool = False) -> VectorScorer:
        """A stage that re-scores candidates (qid, query_toks, docno) by these vectors: no model, no text.

        The vectors are read into memory (eight bytes per posting) when it is first used.
        """
        from ..rescoring import VectorScorer

        return VectorScorer(self, verbose=verbose)

    def feedback(
        self, fb_docs: int = 10, fb_terms: int = 20, fb_lambda: float = 0.5, *, weighting: str = "score"
    ) -> VectorFeedback:
        """A stage of pseudo-relevance feedback (RM3): results to queries with the best documents' heaviest terms.

        ``query_encoder() >> index.retriever(10) >> index.feedback() >> index.retriever(1000)``. The new ``query_toks``
        sum to one; ``query_toks_0`` has those from before. A query that found nothing has no row. The vectors are
        read into memory (eight bytes per posting) when it is first used.

        Args:
            fb_docs: documents per query that count as relevant, by score.
            fb_terms: terms kept of their mean vector (each document's weights in sum 1).
            fb_lambda: share of these in the new weights, from 0 to 1; the rest is the query's own.
            weighting: ``"score"``: each document counts by its share of the scores; ``"softmax"``: by their softmax,
                which takes negative scores, too, and prefers the first.
        """
        from ..rescoring import VectorFeedback

        return VectorFeedback(self, fb_docs, fb_terms, fb_lambda, weighting=weighting)

    def _place(self, docno: str) -> int:
        place = int(self.places.get_indexer([docno])[0])
        if place < 0:
            raise KeyError(f"there is no document {docno!r} in {self!r}")
        return place

    def _row(self, place: int) -> csr_matrix:
        start = 0
        for docnos, vectors in self.blocks():
            if place < start + len(docnos):
                return vectors[place - start]
            start += len(docnos)
        raise IndexError(place)


class PrunedVectors(SparseVectors):
    """Each document's heaviest terms of other vectors; made by ``vectors.pruned(max_terms, min_weight)``."""

    def __init__(self, vectors: SparseVectors, max_terms: int | None, min_weight: float) -> None:
        self.vectors = vectors
        self.max_terms, self.min_weight = check_pruning(max_terms, min_weight)

    terms = property(lambda self: self.vectors.terms)
    readable = property(lambda self: self.vectors.readable)
    vocabulary = property(lambda self: self.vectors.vocabulary)
    quantised = property(lambda self: self.vectors.quantised)
    docnos = property(lambda self: self.vectors.docnos)

    @property
    def made_from(self) -> dict[str, Any] | None:
        """That of the vectors, and what was kept of them."""
        made_from, kept = self.vectors.made_from, [self.max_terms, self.min_weight]
        return made_from if not made_from or kept == [None, 0.0] else {**made_from, "pruned": kept}

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        """All documents in order."""
        for docnos, vectors in self.vectors.blocks():
            yield Block(docnos, prune(vectors, self.max_terms, self.min_weight))

    def _row(self, place: int) -> csr_matrix:
        return prune(self.vectors._row(place), self.max_terms, self.min_weight)

    def __repr__(self) -> str:
        return f"{self.vectors!r}.pruned(max_terms={self.max_terms}, min_weight={self.min_weight:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrunedVectors) and (self.vectors, self.max_terms, self.min_weight) == (
            other.vectors, other.max_terms, other.min_weight,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.vectors, self.max_terms, self.min_weight))
