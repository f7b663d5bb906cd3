"""The index as PyTerrier's artifact: what all engines share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyterrier as pt

from ..._utils.checks import check_number
from . import storage
from .documents import DocumentStream
from .roles import EngineIndexer, EngineRetriever
from .searcher import Searcher

DEFAULT_SCALE = 100.0
FORMAT_VERSION = 1


class EngineIndex(pt.Artifact):
    """An index of documents' term weights; a factory of its indexer and its retriever.

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
        self.scale = float(scale if scale is not None else meta["scale"] if meta else DEFAULT_SCALE)
        self._searcher: Searcher | None = None

    def indexer(self, *, mode: str = "create", verbose: bool = False) -> EngineIndexer:
        """An indexer of documents with docno and toks ({term: int >= 1}); its `.index(docs)` returns this index.

        Args:
            mode: "create" refuses to touch an index that is there; "overwrite" replaces it, once the new one is whole;
                "append" (engine exact) adds to it.
            verbose: show a progress bar.
        """
        return EngineIndexer(self, mode=mode, verbose=verbose)

    def retriever(self, num_results: int = 1000, *, threads: int = 1, verbose: bool = False) -> EngineRetriever:
        """A transformer from qid, query_toks to docno, score (the true dot product) and rank.

        Args:
            num_results: at most so many documents per query.
            threads: how many queries run at once (engine exact).
            verbose: show a progress bar.
        """
        return EngineRetriever(self, num_results, threads=threads, verbose=verbose)

    @property
    def built(self) -> bool:
        """Whether a whole, undamaged index is at the path."""
        meta = storage.read_meta(self.path)
        return meta is not None and storage.damage(self.path, meta) is None

    def __len__(self) -> int:
        """The number of documents; 0 when there is no index yet."""
        meta = storage.read_meta(self.path)
        return meta["documents"] if meta else 0

    def __bool__(self) -> bool:
        """True, also when no document is indexed yet."""
        return True

    @property
    def size_bytes(self) -> int:
        """The size of the index's files in bytes; 0 when there is no index yet."""
        meta = storage.read_meta(self.path)
        return sum(meta["files"].values()) if meta else 0

    def stats(self) -> dict[str, Any]:
        """Documents, terms, postings, weight_sum, scale, size_bytes and the vocabulary's fingerprint (or None).

        Raises:
            FileNotFoundError: there is no whole index at the path.
        """
        meta = self._require_meta()
        keys = ("engine", "documents", "terms", "postings", "weight_sum", "scale", "fingerprint")
        return {**{key: meta[key] for key in keys}, "size_bytes": self.size_bytes}

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the vocabulary that the documents were encoded with, if the encoder told it."""
        meta = storage.read_meta(self.path)
        return meta["fingerprint"] if meta else None

    def build(self, docs: Iterable[Mapping], *, mode: str = "create") -> EngineIndex:
        """Index the documents; what `indexer(mode=mode).index(docs)` calls."""
        if mode not in self.modes:
            raise ValueError(f"mode must be one of {list(self.modes)} with engine {self.engine!r}, got {mode!r}")
        self._prepare()
        old = self._require_meta() if mode == "append" and storage.read_meta(self.path) else None
        stream = DocumentStream(docs, self._check_term, self.scale)
        if old:
            stream.resume(list(storage.read_docnos(self.path)[0]), old)
        with storage.building(self.path, overwrite=mode != "create") as folder:
            extra = self._write(folder, stream, old)
            storage.write_docnos(folder, stream.docnos)
            meta = {
                "version": FORMAT_VERSION,
                "engine": self.engine,
                "scale": self.scale,
                "fingerprint": stream.fingerprint,
                "documents": len(stream.docnos),
                "postings": stream.postings,
                "weight_sum": stream.weight_sum,
            }
            storage.write_meta(folder, self._build_metadata(), {**meta, **extra})
        self.close()
        return self

    def searcher(self) -> Searcher:
        """The index opened for queries (kept open until `close`).

        Raises:
            FileNotFoundError: there is no whole index at the path; the message says what is there.
            ValueError: the index is damaged.
        """
        if self._searcher is None:
            meta = self._require_meta()
            self._prepare()
            self._searcher = self._load(meta)
        return self._searcher

    def close(self) -> None:
        """Let go of the opened files; the next query opens them again."""
        self._searcher = None

    def __repr__(self) -> str:
        return f"open_index({str(self.path)!r}, {self.engine!r}, scale={self.scale:g})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return os.path.abspath(self.path) == os.path.abspath(other.path) and self.scale == other.scale

    def __hash__(self) -> int:
        return hash((type(self).__name__, os.path.abspath(self.path), self.scale))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_searcher": None}

    # What an engine brings.

    def _prepare(self) -> None:
        """Import or start what the engine needs; raise ImportError or RuntimeError if that is missing."""

    def _check_term(self, term: str) -> None:
        """Raise ValueError if the engine cannot hold the term."""
        raise NotImplementedError

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        """Write the engine's files for all documents of the stream; return additions to the metadata (terms)."""
        raise NotImplementedError

    def _load(self, meta: dict) -> Searcher:
        raise NotImplementedError

    def _require_meta(self) -> dict:
        meta = self._checked_meta(self.scale)
        if meta is None:
            raise FileNotFoundError(
                f"{storage.describe_absence(self.path)}: build it with (doc_encoder >> index.indexer()).index(docs)"
            )
        damage = storage.damage(self.path, meta)
        if damage:
            raise ValueError(
                f"the index at {self.path} is damaged: {damage}. Index again with indexer(mode='overwrite')"
            )
        return meta

    def _checked_meta(self, scale: float | None) -> dict | None:
        meta = storage.read_meta(self.path)
        if meta is None:
            return None
        if meta.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"the index at {self.path} has format {meta.get('version')}; this version reads format {FORMAT_VERSION}"
            )
        if meta["engine"] != self.engine:
            raise ValueError(f"the index at {self.path} has engine {meta['engine']!r}, got engine={self.engine!r}")
        if scale is not None and float(scale) != meta["scale"]:
            raise ValueError(
                f"the index at {self.path} was built at scale {meta['scale']:g}, got scale={scale:g}: "
                f"leave scale out, or say scale={meta['scale']:g}"
            )
        return meta
