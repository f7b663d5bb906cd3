"""``Index``: vectors, and one engine's files that are built from them; a factory of its indexer and its retriever."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from .._utils.checks import check_choice, check_integer, check_number
from .engines import ENGINES, engine_class
from .generation import Generation
from .roles import Indexer, Retriever
from .vectors import Vectors


def open_index(path: str | os.PathLike[str], engine: str | None = None, *, scale: float | None = None) -> Index:
    """The index at ``path``, there already or still to be built.

    Args:
        path: the index's folder.
        engine: ``"terrier"`` (Java), ``"exact"`` (a sparse matrix on disk, no Java), ``"pisa"`` (the extra ``pisa``),
            ``"seismic"`` (the extra ``seismic``: approximate, for large collections) or ``"milvus"`` (the extra
            ``milvus``: embedded, or a cluster at $MILVUS_URI). Default: what the index at ``path`` has, else Terrier.
        scale: what the document encoder multiplies weights by before rounding them. Default: what the index was built
            with, else 100. The scores are divided by it, so they are true dot products.

    Returns:
        An index for ``(splade.doc_encoder() >> index.indexer()).index(docs)`` and ``splade.query_encoder() >>
        index.retriever()``. It is ``Vectors``, too.

    Raises:
        ValueError: an unknown engine, or a scale that is no number > 0.
    """
    return Index(path, engine, scale=scale)


class Index(Vectors):
    """An index of documents' term weights; see :func:`open_index`.

    It refuses what is at the path if that has another engine or scale than was asked for;
    ``indexer(mode="overwrite")`` replaces it.
    """

    ARTIFACT_TYPE = "sparse_index"
    ARTIFACT_FORMAT = "rescale"
    _noun, _made_by = "index", "(doc_encoder >> index.indexer()).index(docs)"

    def __init__(
        self, path: str | os.PathLike[str], engine: str | None = None, *, scale: float | None = None
    ) -> None:
        super().__init__(path)
        if engine is not None:
            check_choice("engine", engine, sorted(ENGINES))
        self.asked: dict[str, Any] = {} if engine is None else {"engine": engine}
        if scale is not None:
            self.asked["scale"] = float(check_number("scale", scale))

    @property
    def engine(self) -> str:
        """The engine asked for, else that of the index at the path, else Terrier."""
        return self.asked.get("engine") or self._found().get("engine") or "terrier"

    @property
    def scale(self) -> float:
        """Units per weight: asked for, else of the index at the path, else 100."""
        return self.asked.get("scale") or self._found().get("scale") or 100.0

    def indexer(
        self,
        *,
        mode: str = "create",
        bits: int | None = None,
        verbose: bool = False,
        made_from: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Indexer:
        """An indexer of documents with docno and toks ({term: int >= 1}), or of vectors; its ``.index()`` returns this.

        Args:
            mode: ``"create"`` refuses to touch an index that is there; ``"overwrite"`` replaces it, once the new one is
                whole; ``"append"`` adds to it.
            bits: choose the scale when all documents are there, so that the largest weight is 2**bits - 1 (8 is usual).
                Encode at a fine scale then: ``doc_encoder(scale=10_000) >> index.indexer(bits=8)``.
            verbose: show a progress bar.
            made_from: what the documents' weights come from, plain JSON values, kept as the index's ``made_from``;
                ``encoder`` in it is ``splade.fingerprint``.
            options: the engine's own, e.g. ``n_postings`` of Seismic.
        """
        check_choice("mode", mode, ("create", "overwrite", "append"))
        if bits is not None and (mode == "append" or check_integer("bits", bits) not in range(2, 17)):
            raise ValueError(f"bits must be from 2 to 16 (8 is usual), and None with mode='append', got {bits}")
        self._check_options("build", options)
        return Indexer(self, mode=mode, bits=bits, verbose=verbose, made_from=made_from, options=options)

    def retriever(
        self, num_results: int = 1000, *, threads: int = 1, verbose: bool = False, **options: Any
    ) -> Retriever:
        """A transformer from qid, query_toks to docno, score (the true dot product) and rank.

        Args:
            num_results: at most so many documents per query.
            threads: how many queries run at once (engines exact and seismic).
            verbose: show a progress bar.
            options: the engine's own, e.g. ``query_cut`` of Seismic.
        """
        check_integer("num_results", num_results)
        if check_integer("threads", threads) > 1 and not engine_class(self.engine).concurrent:
            raise ValueError(f"threads must be 1 with engine {self.engine!r}, got {threads}")
        self._check_options("search", options)
        return Retriever(self, num_results, threads=threads, verbose=verbose, options=options)

    def _check_options(self, verb: str, options: Mapping[str, Any]) -> None:
        """``TypeError`` for options that the engine does not have: now, not when all documents are encoded."""
        try:
            found = signature(getattr(engine_class(self.engine), verb))
            own = [one for one in found.parameters.values() if one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
            found.replace(parameters=own).bind_partial(**options)
        except TypeError as error:
            raise TypeError(f"engine {self.engine!r} has no such option: {error}") from None

    @property
    def engine_path(self) -> Path:
        """The folder of the engine's own files, for other readers; it is removed when the index is replaced."""
        return self.open().folder / self.engine

    @property
    def built(self) -> bool:
        """Whether a whole, undamaged index is at the path."""
        try:
            return bool(self.open())
        except (FileNotFoundError, ValueError):
            return False

    def stats(self, **options: Any) -> dict[str, Any]:
        """As :meth:`Vectors.stats`, and engine, fingerprint (of the vocabulary) and size_bytes."""
        own = {"engine": self.engine, "fingerprint": self.vocabulary, "size_bytes": self.size_bytes}
        return {**own, **super().stats(**options)}

    def _current(self) -> dict[str, Any]:
        current = super()._current()
        if current["engine"] is None:
            raise FileNotFoundError(
                f"{self.path} holds vectors and no index: build one with "
                f"open_index(another_path).indexer().index(open_vectors({str(self.path)!r}))"
            )
        for name, asked in self.asked.items():
            if current[name] != asked:
                raise ValueError(
                    f"the index at {self.path} has {name} {current[name]!r}, got {name}={asked!r}: leave {name} "
                    "out, or build it anew with indexer(mode='overwrite')"
                )
        return current

    def _open(self, current: dict[str, Any]) -> Generation:
        generation = super()._open(current)
        engine = engine_class(current["engine"])
        generation.engine = engine(generation.folder / engine.name, generation)
        return generation

    def __repr__(self) -> str:
        return f"open_index({str(self.path)!r}, {self.engine!r}, scale={self.scale:g})"

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same and (self.engine, self.scale) == (other.engine, other.scale)  # type: ignore[attr-defined]

    __hash__ = Vectors.__hash__
