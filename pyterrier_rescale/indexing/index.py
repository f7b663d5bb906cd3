"""``Index``: vectors, and one engine's files that are built from them; a factory of its indexer and its retriever."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._utils.checks import check_choice, check_integer, check_number
from . import store
from .engines import ENGINES, engine_class
from .engines.base import Engine
from .generation import SHARDS, Generation, count_shards, write_vocabulary
from .intake import ToksIntake
from .roles import Indexer, Retriever
from .shards import write_shards
from .vectors import Vectors

DEFAULT_ENGINE, DEFAULT_SCALE = "terrier", 100.0
MODES = ("create", "overwrite", "append")


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
        An index with ``.indexer()`` for ``(splade.doc_encoder() >> index.indexer()).index(docs)`` and ``.retriever()``
        for ``splade.query_encoder() >> index.retriever(num_results=1000)``. It is ``Vectors``, too.

    Raises:
        ValueError: an unknown engine, or a scale that is no number > 0.
    """
    return Index(path, engine, scale=scale)


class Index(Vectors):
    """An index of documents' term weights; see :func:`open_index`.

    A handle stands for a path: it opens the index there at the first use, and looks before each later one whether that
    has been replaced (by any process). It refuses an index of another engine or scale than it was asked for;
    ``indexer(mode="overwrite")`` replaces that, too.
    """

    ARTIFACT_TYPE = "sparse_index"
    ARTIFACT_FORMAT = "rescale"

    def __init__(
        self, path: str | os.PathLike[str], engine: str | None = None, *, scale: float | None = None
    ) -> None:
        super().__init__(path)
        if engine is not None:
            check_choice("engine", engine, sorted(ENGINES))
        self._asked = engine, None if scale is None else float(check_number("scale", scale))

    @property
    def engine(self) -> str:
        """The engine asked for, else that of the index at the path, else Terrier."""
        return self._asked[0] or self._found().get("engine") or DEFAULT_ENGINE

    @property
    def scale(self) -> float:
        """Units per weight: asked for, else of the index at the path, else 100."""
        return self._asked[1] or self._found().get("scale") or DEFAULT_SCALE

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
            made_from: what the documents' weights come from, plain JSON values, kept as the index's ``made_from``.
            options: the engine's own, e.g. ``n_postings`` of Seismic.

        Raises:
            ValueError, TypeError: for arguments that cannot be.
        """
        check_choice("mode", mode, MODES)
        if bits is not None and (mode == "append" or check_integer("bits", bits) not in range(2, 17)):
            raise ValueError(f"bits must be from 2 to 16 (8 is usual), and None with mode='append', got {bits}")
        self._check_options(options, "build_options")
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

        Raises:
            ValueError, TypeError: for arguments that cannot be.
        """
        check_integer("num_results", num_results)
        if check_integer("threads", threads) > 1 and not engine_class(self.engine).concurrent:
            raise ValueError(f"threads must be 1 with engine {self.engine!r}, got {threads}")
        self._check_options(options, "search_options")
        return Retriever(self, num_results, threads=threads, verbose=verbose, options=options)

    def _check_options(self, options: Mapping[str, Any], kind: str) -> None:
        known = getattr(engine_class(self.engine), kind) if options else ()
        for name in options:
            if name not in known:
                raise TypeError(f"{name!r} is no option of engine {self.engine!r}, which has {sorted(known)}")

    def build(
        self,
        documents: Any,
        *,
        mode: str = "create",
        bits: int | None = None,
        made_from: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Index:
        """Write the vectors, then let the engine build from them; what ``indexer(...).index(documents)`` calls."""
        engine = engine_class(self.engine)
        options = {**engine.build_options, **(options or {})}
        with store.building(self.path, self._build_metadata(), overwrite=mode != "create") as (folder, content):
            old = self.open() if mode == "append" and self._found() else None
            (folder / SHARDS).mkdir()
            taken = _write_vectors(folder, documents, engine, self.scale, old, any_scale=bits is not None)
            content |= {"engine": engine.name, "made_from": made_from, "options": options, "scale": self.scale, **taken}
            generation = Generation(folder, content)
            if bits is not None:
                largest = max(float(vectors.data.max(initial=0)) for _, vectors in generation.blocks())
                content["scale"] = float(f"{((1 << bits) - 1) / largest:.6g}") if largest else self.scale
            used = generation.terms[generation.document_frequencies > 0]
            for term in used if isinstance(documents, Vectors) else ():
                engine.check_term(term)
            if engine.needs_terms and not len(used):
                raise NoTermsError("no document has any term (toks is empty in all of them)")
            (folder / engine.name).mkdir()
            engine.build(folder / engine.name, generation, **options)
            content |= {"terms": len(used), "postings": int(generation.document_frequencies.sum())}
            content["unlisted"] = None if engine.listed else engine.name
        self.close()
        self._asked = engine.name, content["scale"] if self._asked[1] else None
        return self

    def searcher(self) -> Engine:
        """The engine, opened on the index at the path; see ``open``."""
        return self.open().engine

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

    def __len__(self) -> int:
        """The number of documents; 0 when there is no index yet."""
        return self._found().get("documents", 0)

    @property
    def size_bytes(self) -> int:
        """The size of the index's files in bytes; 0 when there is no index yet."""
        return sum(self._found().get("files", {}).values())

    def stats(self, **options: Any) -> dict[str, Any]:
        """As :meth:`SparseVectors.stats`, and engine, fingerprint (of the vocabulary) and size_bytes."""
        own = {"engine": self.engine, "fingerprint": self.vocabulary, "size_bytes": self.size_bytes}
        return {**own, **super().stats(**options)}

    def _found(self) -> dict[str, Any]:
        manifest = store.read_manifest(self.path)
        return (manifest and manifest.current) or {}

    def _current(self) -> dict[str, Any]:
        current = super()._current()
        for name, asked in zip(("engine", "scale"), self._asked, strict=True):
            if asked is not None and current.get(name) != asked:
                raise ValueError(
                    f"the index at {self.path} has {name} {current.get(name)!r}, got {name}={asked!r}: leave {name} "
                    "out, or build it anew with indexer(mode='overwrite')"
                )
        if current.get("engine") is None:
            raise FileNotFoundError(
                f"{self.path} holds vectors and no index: build one with "
                f"open_index(another_path).indexer().index(open_vectors({str(self.path)!r}))"
            )
        return current

    def _open(self, current: dict[str, Any]) -> Generation:
        generation = super()._open(current)
        engine = engine_class(current["engine"])
        generation.engine = engine(generation.folder / engine.name, generation)
        return generation

    def _absence(self, begun: bool) -> str:
        what = "was not finished" if begun else "is not there"
        return f"the index at {self.path} {what}: build it with (doc_encoder >> index.indexer()).index(docs)"

    def __repr__(self) -> str:
        return f"open_index({str(self.path)!r}, {self.engine!r}, scale={self.scale:g})"

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same and (self.engine, self.scale) == (other.engine, other.scale)  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return super().__hash__()


class NoTermsError(ValueError):
    """No document has any term, and the engine cannot hold an index without one."""


def _write_vectors(
    folder: Path, documents: Any, engine: type[Engine], scale: float, old: Generation | None, *, any_scale: bool
) -> dict[str, Any]:
    """Write shards and vocabulary of a new generation, after those of an ``old`` one; return what is known of them."""
    for shard in old.shards if old else ():
        _link(shard, folder / SHARDS / shard.name)
    if isinstance(documents, Vectors) and old is None:
        write_shards(folder / SHARDS, documents.blocks(), 0)
        write_vocabulary(folder, documents.terms, documents.readable, documents.tokens)
        taken: dict[str, Any] = {"fingerprint": documents.vocabulary}
    else:
        if isinstance(documents, Vectors):
            documents = documents.documents(scale)
        vocabulary = dict(old.columns) if old else {}
        intake = ToksIntake(
            documents, engine.check_term, scale, any_scale=any_scale, vocabulary=vocabulary,
            fingerprint=old and old.content["fingerprint"], known=old.docnos if old else (),
        )  # fmt: skip
        write_shards(folder / SHARDS, intake.blocks(), len(old.shards) if old else 0)
        new = list(intake.vocabulary)[len(old.terms) if old else 0 :]
        readable = [*old.readable, *new] if old else None
        write_vocabulary(folder, intake.vocabulary, readable, old and old.tokens and [*old.tokens, *[None] * len(new)])
        taken = {"fingerprint": intake.fingerprint}
    return {**taken, "documents": count_shards(folder)[1]}


def _link(shard: Path, target: Path) -> None:
    """The same shard in another generation, which takes no room where the file system has hard links."""
    try:
        os.link(shard, target)
    except OSError:
        shutil.copyfile(shard, target)
