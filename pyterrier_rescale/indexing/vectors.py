"""``Vectors``: documents' term weights in a folder, encoded once, read by every engine and export."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix, vstack

from .._utils.checks import check_number
from .._utils.files import expand
from ..encoding.pruning import check_pruning
from . import store
from .generation import SHARDS, Generation
from .rescoring import VectorFeedback, VectorScorer
from .shards import Block

T = TypeVar("T")
_ALL = (None, 0.0)  # terms kept per document, and their least weight


def open_vectors(path: str | os.PathLike[str]) -> Vectors:
    """The finished vectors at ``path``, which :func:`~pyterrier_rescale.encode` made; no model is loaded.

    Raises:
        FileNotFoundError: there are none, or they are not finished; the message says what is there.
        ValueError: they are damaged, or of another format.
    """
    vectors = Vectors(path)
    vectors.open()
    return vectors


class Vectors(pt.Artifact):
    """Documents' term weights in Parquet shards (docno string, terms list<int32>, weights list<float32>).

    A handle stands for a path: before each use it looks whether something else is there by now, and opens that. Any
    Parquet reader opens the shards.

    Attributes:
        terms: the terms as engines hold them, (V,), by column.
        readable: the same for people.
        tokens: the tokenizer's own tokens by column, or None.
        columns: term -> column.
        docnos: the docnos, in order.
        vocabulary: fingerprint of the encoder's terms, or None.
        scale: units per weight that an index rounds to, or None.
    """

    ARTIFACT_TYPE = "sparse_vectors"
    ARTIFACT_FORMAT = "rescale"
    ARTIFACT_PACKAGE_HINT = "pyterrier-rescale"
    _noun, _made_by = "vectors", "encode(splade, documents, path)"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(expand(path).absolute())
        self._kept: tuple[int | None, float] = _ALL
        self._opened: Generation | None = None
        self._stamp: Any = None
        self._opening = threading.Lock()

    def open(self) -> Generation:
        """What is at the path now, opened; kept open until it is replaced, or until ``close``.

        Raises:
            FileNotFoundError: there is nothing, or it is not finished.
            ValueError: it is damaged, or of another format.
        """
        with self._opening:
            while self._opened is None or store.stamp(self.path) != self._stamp:
                stamp, current = store.stamp(self.path), self._current()
                if self._opened is None or self._opened.folder.name != current["generation"]:
                    self._opened = None  # closes its files
                    try:
                        self._opened = self._open(current)
                    except Exception:  # perhaps replaced meanwhile, and half removed
                        if store.stamp(self.path) == stamp:
                            raise
                self._stamp = stamp
            return self._opened

    def _open(self, current: dict[str, Any]) -> Generation:
        store.check_files(self.path, current)
        return Generation(self.path / current["generation"], current, self._kept)

    def _found(self) -> dict[str, Any]:
        manifest = store.read_manifest(self.path)
        return (manifest and manifest.current) or {}

    def _current(self) -> dict[str, Any]:
        manifest = store.read_manifest(self.path)
        if manifest and manifest.current:
            return manifest.current
        state = "not finished" if manifest else "not there"
        for name in manifest.unfinished if manifest else ():
            state += f" ({len(list((self.path / name / SHARDS).glob('shard-*')))} shards are there)"
        raise FileNotFoundError(f"{self._noun} at {self.path}: {state}. {self._made_by} makes what is missing")

    def read(self, function: Callable[[Generation], T]) -> T:
        """What a function makes of what is at the path, all of one build: again if it was replaced meanwhile."""
        while True:
            generation = self.open()
            try:
                return function(generation)
            except Exception:  # each engine has its own error for a file that was removed
                if self.open() is generation:
                    raise

    def close(self) -> None:
        """Let go of the opened files; the next use opens them again."""
        with self._opening:
            self._opened = None

    terms = property(lambda self: self.open().terms)
    readable = property(lambda self: self.open().readable)
    tokens = property(lambda self: self.open().tokens)
    columns = property(lambda self: self.open().columns)
    docnos = property(lambda self: self.read(lambda generation: generation.docnos).to_pylist())
    vocabulary = property(lambda self: self.open().content["fingerprint"])
    scale = property(lambda self: self.open().content["scale"])

    @property
    def made_from(self) -> dict[str, Any] | None:
        """What the vectors come from, and what was kept of them."""
        made_from = self.open().content["made_from"]
        return {**made_from, "pruned": list(self._kept)} if made_from and self._kept != _ALL else made_from

    @property
    def shards_path(self) -> Path:
        """The folder of the Parquet shards, for other readers; it is removed when the vectors are replaced."""
        return self.open().folder / SHARDS

    @property
    def complete(self) -> bool:
        """Whether all is there; else other processes still work on their shares."""
        return bool(self._found())

    @property
    def size_bytes(self) -> int:
        """The size of all files in bytes; 0 while nothing is complete."""
        return sum(self._found().get("files", {}).values())

    def __len__(self) -> int:
        """The number of documents; 0 while nothing is complete."""
        return self._found().get("documents", 0)

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 2,048 at a time; ``FileNotFoundError`` where they are replaced meanwhile."""
        return self.open().blocks()

    def to_csr(self) -> csr_matrix:
        """All vectors in memory, shape (N, V), float32, rows in the order of ``docnos``."""
        return self.read(lambda generation: vstack([part.vectors for part in generation.blocks()], format="csr"))

    def rows(self, docnos: Sequence[str]) -> csr_matrix:
        """The documents' vectors, shape (len(docnos), V), float32; nothing else is read.

        Raises:
            KeyError: there is no such document.
        """
        return self.read(lambda generation: generation.rows(docnos))

    def vector(self, docno: str) -> csr_matrix:
        """One document's vector, shape (1, V); errors as in ``rows``."""
        return self.rows([docno])

    def top_terms(self, docno: str, n: int = 10) -> list[tuple[str, float]]:
        """The n heaviest terms of a document with their weights, readable, heaviest first; errors as in ``rows``."""
        row, readable = self.read(lambda generation: (generation.rows([docno]), generation.readable))
        best = np.lexsort((row.indices, -row.data))[:n]
        return [(str(readable[row.indices[i]]), float(row.data[i])) for i in best]

    def documents(self, scale: float | None = None) -> Iterator[dict[str, Any]]:
        """Documents as indexers take them: ``docno`` and ``toks`` ({term: rounded int(scale * weight) >= 1}).

        Args:
            scale: units per weight; default: the index's, else 100.
        """
        scale, generation = self._scale_or(scale), self.open()
        fingerprint = generation.content["fingerprint"]
        toks = generation.at_scale(scale).toks(f"{fingerprint}:{scale:g}")
        for docno, weights in zip(generation.docnos.to_pylist(), toks, strict=True):
            yield {"docno": docno, "toks": weights if fingerprint else dict(weights)}

    def _scale_or(self, scale: float | None) -> float:
        return self.scale or 100.0 if scale is None else check_number("scale", scale)

    def stats(self, *, scale: float | None = None, top: int = 20) -> dict[str, Any]:
        """What engines have to hold, in one pass.

        Args:
            scale: units per weight for what depends on rounding; default: the index's, else 100.
            top: how many frequent terms are named.

        Returns:
            documents, postings, terms (that occur), empty (documents without terms); active_mean, active_p99 and
            active_max (terms per document); weight_mean, weight_max, weight_sum (in units), scale; ``frequent_terms``
            ({readable term: documents that have it}, most frequent first); and shares: dropped (weights that round to
            zero), clipped_8bit (those that round to more than 255), clipped_opensearch (weights above 3, where
            OpenSearch's ``sparse_vector`` clips them by default), refused_pgvector (documents of more than 1,000 terms,
            which pgvector's HNSW index refuses).
        """
        scale, generation = self._scale_or(scale), self.open()
        counts, frequencies = [], np.zeros(len(generation.terms), dtype=np.int64)
        largest, sums = 0.0, np.zeros(5)
        for _, vectors in generation.blocks():
            counts.append(np.diff(vectors.indptr))
            frequencies += np.bincount(vectors.indices, minlength=len(frequencies))
            weights = vectors.data.astype(np.float64)
            rounded = np.rint(weights * scale)
            largest = max(largest, float(weights.max(initial=0)))
            sums += [part.sum() for part in (weights, rounded, rounded < 1, rounded > 255, weights > 3)]
        active, postings = np.concatenate(counts), int(frequencies.sum())
        mean, _, dropped, clipped, above = (sums / max(1, postings)).tolist()
        order = np.argsort(-frequencies, kind="stable")[:top]
        return {
            "documents": len(active),
            "postings": postings,
            "terms": int((frequencies > 0).sum()),
            "empty": int((active == 0).sum()),
            "active_mean": float(active.mean()),
            "active_p99": int(np.percentile(active, 99, method="inverted_cdf")),
            "active_max": int(active.max()),
            "weight_mean": mean,
            "weight_max": largest,
            "weight_sum": int(sums[1]),
            "scale": scale,
            "dropped": dropped,
            "clipped_8bit": clipped,
            "clipped_opensearch": above,
            "refused_pgvector": float((active > 1000).mean()),
            "frequent_terms": {str(generation.readable[i]): int(frequencies[i]) for i in order if frequencies[i]},
        }

    def pruned(self, max_terms: int | None = None, min_weight: float = 0.0) -> Vectors:
        """The same documents with their ``max_terms`` heaviest terms only, of ``min_weight`` or more, cut when read."""
        few = Vectors(self.path)
        most, least = check_pruning(max_terms, min_weight)
        few._kept = min(filter(None, (most, self._kept[0])), default=None), max(least, self._kept[1])
        return few

    def scorer(self) -> VectorScorer:
        """A stage that re-scores results (qid, query_toks, docno) by these vectors: no model, no text.

        ``query_encoder(max_terms=5) >> index.retriever() >> index.scorer()`` finds candidates by the heaviest terms and
        scores them with all.
        """
        return VectorScorer(self)

    def feedback(
        self, fb_docs: int = 10, fb_terms: int = 20, fb_lambda: float = 0.5, *, weighting: str = "score"
    ) -> VectorFeedback:
        """A stage of pseudo-relevance feedback: results to queries with the best documents' heaviest terms.

        ``query_encoder() >> index.retriever(10) >> index.feedback() >> index.retriever(1000)``; see
        :class:`~pyterrier_rescale.indexing.rescoring.VectorFeedback`.

        Args:
            fb_docs: documents per query that count as relevant, by score.
            fb_terms: terms kept of their mean vector (each document's weights in sum 1).
            fb_lambda: share of these in the new weights, from 0 to 1; the rest is the query's own.
            weighting: ``"score"``: each document counts by its share of the scores; ``"softmax"``: by their softmax,
                which takes negative scores, too, and prefers the first.
        """
        return VectorFeedback(self, fb_docs, fb_terms, fb_lambda, weighting=weighting)

    def __repr__(self) -> str:
        pruned = "" if self._kept == _ALL else f".pruned(max_terms={self._kept[0]}, min_weight={self._kept[1]:g})"
        return f"open_vectors({str(self.path)!r}){pruned}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self.path, self._kept) == (other.path, other._kept)  # type: ignore

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.path))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _opening=threading.Lock())
