"""Index engines behind one pair of verbs: `open_index(path, engine)`, then `.indexer()` and `.retriever()`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..._utils.checks import check_choice
from ..._utils.defaults import DefaultInt, DefaultStr
from ..._utils.paths import expand

if TYPE_CHECKING:
    from .base import EngineIndex

_SCALE_100 = DefaultInt(100)
_TERRIER = DefaultStr("terrier")
ENGINES = {
    "terrier": ("terrier", "TerrierEngine"),
    "pisa": ("pisa", "PisaEngine"),
    "exact": ("exact", "ExactEngine"),
    "seismic": ("seismic", "SeismicEngine"),
    "milvus": ("milvus", "MilvusEngine"),
}


def open_index(path: str | os.PathLike, engine: str = _TERRIER, *, scale: float | None = _SCALE_100) -> EngineIndex:
    """The index at `path`, there already or still to be built.

    Args:
        path: the index's folder; with engine "milvus" a .db folder or a URL, http://host:19530/COLLECTION.
        engine: "terrier" (Java), "pisa" (the extra `pisa`), "exact" (a sparse matrix on disk, no Java), "seismic" (the
            extra `seismic`: approximate, for large collections) or "milvus" (the extra `milvus`: a cluster, or
            embedded). Left out: the one that the index at `path` has, or "terrier" for a new index.
        scale: what the document encoder multiplies weights by before rounding them. Left out: what the index was built
            with, or 100 for a new index. The scores are divided by it, so they are true dot products.

    Returns:
        An index with `.indexer()` for `(splade.doc_encoder() >> index.indexer()).index(docs)` and `.retriever()` for
        `splade.query_encoder() >> index.retriever(num_results=1000)`.

    Raises:
        ValueError: an unknown engine, or the index at `path` has another engine or scale.
        ImportError: the engine's package is not installed.
    """
    if scale is _SCALE_100:
        scale = None
    path = os.fspath(path) if "://" in os.fspath(path) else expand(path)
    if engine is _TERRIER:
        engine = found_engine(path) or "terrier"
    elif engine != "milvus" and _is_milvus(path):  # which has no manifest that the other engines would read
        raise ValueError(f"the index at {path} has engine 'milvus', got engine={engine!r}")
    return engine_class(engine)(path, scale=scale)


def found_engine(path: str | os.PathLike) -> str | None:
    """The engine of the index at `path`; None where no index of ours is.

    Raises:
        ValueError: its manifest is not readable, or names an engine that this version does not have.
    """
    from .reading import read_meta

    if _is_milvus(path):
        return "milvus"
    meta = read_meta(Path(path))
    if meta is None or "engine" not in meta:
        return None
    if meta["engine"] not in ENGINES:
        raise ValueError(f"the index at {path} has engine {meta['engine']!r}; this version has {sorted(ENGINES)}")
    return meta["engine"]


def _is_milvus(path: str | os.PathLike) -> bool:
    text = os.fspath(path)
    return "://" in text or (text.endswith(".db") and os.path.isdir(os.path.join(text, "databases")))


def engine_class(engine: str) -> type[EngineIndex]:
    """The class of an engine by its name.

    Raises:
        ValueError: an unknown engine.
        ImportError: the engine's package is not installed.
    """
    module, name = ENGINES[check_choice("engine", engine, sorted(ENGINES))]
    return getattr(importlib.import_module(f".{module}", __name__), name)
