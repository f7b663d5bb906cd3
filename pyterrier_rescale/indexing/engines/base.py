"""The index as PyTerrier's artifact: what all engines share."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pyterrier as pt

from ..._utils.checks import check_number
from . import reading, storage, workspace
from .documents import DocumentStream
from .quantising import QuantisedStream
from .roles import EngineIndexer, EngineRetriever
from .searcher import Searcher

if TYPE_CHECKING:
    from ..rescoring import VectorFeedback, VectorScorer
    from ..vectors.index_vectors import IndexVectors

DEFAULT_SCALE = 100.0
FORMAT_VERSION = 2

T = TypeVar("T")


class EngineIndex(pt.Artifact):
    """An index of documents' term weights; a factory of its indexer and its retriever.

    A handle stands for a path. It opens the index there at the first query and looks before each later one whether that
    has been replaced (by any process): then it opens the new one. Two handles are equal if they have the same path and
    scale and last saw the same `generation`.

    Args:
        path: the index's folder.
        scale: what the document encoder multiplies weights by; None: what the index was built with, else 100.

    Raises:
        ValueError: the index at `path` has another engine or scale.
    """

    ARTIFACT_TYPE = "sparse_index"
    ARTIFACT_PACKAGE_HINT = "pyterrier-rescale"
    engine: ClassVar[str]
    concurrent: ClassVar[bool] = False  # whether one searcher serves several threads
    modes: ClassVar[tuple[str, ...]] = ("create", "overwrite")

    def __init__(self, path: str | os.PathLike, *, scale: float | None = None):
        super().__init__(path)
        if scale is not None:
            scale = check_number("scale", scale)
        meta = self._checked_meta(scale)
        self._setup(float(scale if scale is not None else meta["scale"] if meta else DEFAULT_SCALE))
        self._generation: str | None = meta["generation"] if meta else None

    @classmethod
    def replacing(cls, path: str | os.PathLike, *, scale: float) -> EngineIndex:
        """A handle to build with, whatever engine and scale the index at the path has (`mode="overwrite"`)."""
        index = cls.__new__(cls)
        pt.Artifact.__init__(index, path)
        index._setup(float(scale))
        index._generation = None
        return index

    def _setup(self, scale: float) -> None:
        self.scale = scale
        self._searcher: Searcher | None = None
        self._stamp: storage.Stamp | None = None
        self._opening = threading.Lock()

    def indexer(
        self,
        *,
        mode: str = "create",
        verbose: bool = False,
        made_from: Mapping[str, Any] | None = None,
        bits: int | None = None,
    ) -> EngineIndexer:
        """An indexer of documents with docno and toks ({term: int >= 1}); its `.index(docs)` returns this index.

        Args:
            mode: "create" refuses to touch an index that is there; "overwrite" replaces it, once the new one is whole;
                "append" (engine exact) adds to it.
            verbose: show a progress bar.
            made_from: what the documents' weights come from, plain JSON values, kept in the index as its `made_from`.
            bits: quantise once more when all documents are there, so that the largest weight is 2**bits - 1 (8 is
                usual); the index's scale, by which scores are divided, becomes what that takes. Encode at a fine scale
                then: `doc_encoder(scale=10_000) >> index.indexer(bits=8)`. None: weights as they come.
        """
        return EngineIndexer(self, mode=mode, verbose=verbose, made_from=made_from, bits=bits)

    def retriever(self, num_results: int = 1000, *, threads: int = 1, verbose: bool = False) -> EngineRetriever:
        """A transformer from qid, query_toks to docno, score (the true dot product) and rank.

        Args:
            num_results: at most so many documents per query.
            threads: how many queries run at once (engine exact).
            verbose: show a progress bar.
        """
        return EngineRetriever(self, num_results, threads=threads, verbose=verbose)

    def vectors(self) -> IndexVectors:
        """The documents' vectors as this index holds them, read back when first used: whole multiples of 1 / scale.

        Another engine takes them: `other.indexer().index(index.vectors())`, no model needed. Engine exact reads its
        files where they are; terrier decodes its inverted file, pisa asks for each term (both hold eight bytes per
        posting, and take some seconds per million of them).
        """
        from ..vectors.index_vectors import IndexVectors

        return IndexVectors(self)

    def scorer(self, *, verbose: bool = False) -> VectorScorer:
        """A transformer that re-scores results (qid, query_toks, docno) by this index's vectors: no model, no text.

        `query_encoder(max_terms=5) >> index.retriever() >> index.scorer()` finds candidates by the heaviest terms and
        scores them with all. The vectors are read into memory at first use.
        """
        return self.vectors().scorer(verbose=verbose)

    def feedback(
        self, fb_docs: int = 10, fb_terms: int = 20, fb_lambda: float = 0.5, *, weighting: str = "score"
    ) -> VectorFeedback:
        """A transformer of pseudo-relevance feedback (RM3) by this index's vectors: no model, no text.

        `query_encoder() >> index.retriever(10) >> index.feedback() >> index.retriever(1000)` searches again with the
        terms of the documents found first. Arguments as for
        :meth:`~pyterrier_rescale.indexing.vectors.base.SparseVectors.feedback`.
        """
        return self.vectors().feedback(fb_docs, fb_terms, fb_lambda, weighting=weighting)

    @property
    def built(self) -> bool:
        """Whether a whole, undamaged index is at the path."""
        meta, damage = reading.read_state(self.path)
        return meta is not None and damage is None

    def __len__(self) -> int:
        """The number of documents; 0 when there is no index yet."""
        meta = self._meta()
        return meta["documents"] if meta else 0

    def __bool__(self) -> bool:
        """True, also when no document is indexed yet."""
        return True

    @property
    def size_bytes(self) -> int:
        """The size of the index's files in bytes; 0 when there is no index yet."""
        meta = self._meta()
        return sum(meta["files"].values()) if meta else 0

    def stats(self) -> dict[str, Any]:
        """Documents, terms, postings, weight_sum, scale, size_bytes and the vocabulary's fingerprint (or None).

        Raises:
            FileNotFoundError: there is no whole index at the path.
        """
        meta = self._require_meta()
        keys = ("engine", "documents", "terms", "postings", "weight_sum", "scale", "fingerprint")
        return {**{key: meta[key] for key in keys}, "size_bytes": sum(meta["files"].values())}

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the vocabulary that the documents were encoded with, if the encoder told it."""
        return (self._meta() or {}).get("fingerprint")

    @property
    def made_from(self) -> dict[str, Any] | None:
        """What the index at the path was made from, as its `indexer(made_from=...)` was told; None if it was not."""
        return (self._meta() or {}).get("made_from")

    @property
    def generation(self) -> str | None:
        """Names the build that this handle saw last, when it was made, built, or opened for queries; None: none."""
        return self._generation

    def build(
        self,
        docs: Iterable[Mapping],
        *,
        mode: str = "create",
        made_from: Mapping[str, Any] | None = None,
        bits: int | None = None,
        scale: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> EngineIndex:
        """Index the documents; what `indexer(...).index(docs)` calls.

        With `bits`, `scale` is that of weights that do not tell it (None: the index's); `options` are the engine's own.
        """
        if mode not in self.modes:
            raise ValueError(f"mode must be one of {list(self.modes)} with engine {self.engine!r}, got {mode!r}")
        made_from = None if made_from is None else json.loads(json.dumps(dict(made_from)))  # fails before the work
        self._prepare()

        def stream(folder: Path | None) -> DocumentStream:
            if bits is None:
                return DocumentStream(docs, self._check_term, self.scale)
            return QuantisedStream(docs, self._check_term, scale or self.scale, bits, folder)

        meta = self._build(stream, mode, made_from, options or {})
        self.close()
        self._generation, self.scale = meta["generation"], meta["scale"]
        return self

    def _build(
        self, stream_in: Callable[[Path | None], DocumentStream], mode: str, made_from: Any, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the index and return its manifest; `stream_in` gives the documents, with a folder to hold them in."""
        with workspace.building(self.path, overwrite=mode != "create") as folder:
            old = self._require_meta() if mode == "append" and storage.read_meta(self.path) else None
            stream = stream_in(folder)
            if old:
                stream.resume(list(storage.read_docnos(self.path)[0]), old)
            extra = self._write(folder, stream, old, **options)
            storage.write_docnos(folder, stream.docnos)
            meta = {**self._manifest(stream, made_from), **extra}
            storage.write_meta(folder, self._build_metadata(), meta)
        return meta

    def _manifest(self, stream: DocumentStream, made_from: Any) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "generation": uuid.uuid4().hex,
            "engine": self.engine,
            "scale": float(stream.scale),
            "fingerprint": stream.fingerprint,
            "documents": len(stream.docnos),
            "postings": stream.postings,
            "weight_sum": stream.weight_sum,
            "made_from": made_from,
        }

    def searcher(self) -> Searcher:
        """The index opened for queries: kept open until it is replaced, or until `close`.

        Raises:
            FileNotFoundError: there is no whole index at the path; the message says what is there.
            ValueError: the index is damaged, or another scale's or engine's now.
        """
        with self._opening:
            stamp = self._stamp_now()
            if self._searcher is None or stamp is None or stamp != self._stamp:
                self._searcher = self._read_whole(self._open)
                self._stamp, self._generation = stamp, self._searcher.meta["generation"]
            return self._searcher

    def _open(self, meta: dict) -> Searcher:
        held = self._searcher
        if held is not None and held.meta["generation"] == meta["generation"]:
            return held
        self._prepare()
        searcher = self._load(meta)
        searcher.meta = meta
        return searcher

    def close(self) -> None:
        """Let go of the opened files; the next query opens them again."""
        self._searcher = None

    def __repr__(self) -> str:
        return f"open_index({str(self.path)!r}, {self.engine!r}, scale={self.scale:g})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        same = os.path.abspath(self.path) == os.path.abspath(other.path) and self.scale == other.scale
        return same and self._generation == other._generation

    def __hash__(self) -> int:
        # Without the generation, which changes while the handle lives.
        return hash((type(self).__name__, os.path.abspath(self.path), self.scale))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_searcher", "_stamp", "_opening")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._setup(state["scale"])

    # What an engine brings.

    def _prepare(self) -> None:
        """Import or start what the engine needs; raise ImportError or RuntimeError if that is missing."""

    def _check_term(self, term: str) -> None:
        """Raise ValueError if the engine cannot hold the term; by default it holds every str that UTF-8 can."""

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        """Write the engine's files for all documents of the stream; return additions to the metadata (terms)."""
        raise NotImplementedError

    def _load(self, meta: dict) -> Searcher:
        raise NotImplementedError

    def _meta(self) -> dict | None:
        """Our part of the manifest, None if there is no index."""
        return reading.read_meta(self.path)

    def _stamp_now(self) -> Any:
        """What changes when the index is replaced, and is quickly told; None: there is no index."""
        return storage.stamp(self.path)

    def _require_meta(self) -> dict:
        return self._read_whole(lambda meta: meta)

    def _read_whole(self, read: Callable[[dict], T]) -> T:
        return reading.read_whole(self.path, lambda: self._checked_meta(self.scale), read)

    def _checked_meta(self, scale: float | None) -> dict | None:
        meta = self._meta()
        if meta is None:
            return None
        if meta.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"the index at {self.path} has format {meta.get('version')}; this version reads format "
                f"{FORMAT_VERSION}: build it anew, elsewhere or after removing that folder"
            )
        if meta["engine"] != self.engine:
            raise ValueError(f"the index at {self.path} has engine {meta['engine']!r}, got engine={self.engine!r}")
        if scale is not None and float(scale) != meta["scale"]:
            raise ValueError(
                f"the index at {self.path} was built at scale {meta['scale']:g}, got scale={scale:g}: "
                f"leave scale out, or say scale={meta['scale']:g}"
            )
        return meta
