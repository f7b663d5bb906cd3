"""Engines: each is one class that builds its files from vectors, opens them, and searches them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..._utils.checks import check_choice

if TYPE_CHECKING:
    from .base import Engine

#: name -> (module, class, the package that it needs), or a class
ENGINES: dict[str, tuple[str, str, str] | type[Engine]] = {
    "terrier": ("terrier", "TerrierEngine", ""),
    "pisa": ("pisa", "PisaEngine", "pyterrier_pisa"),
    "exact": ("exact", "ExactEngine", ""),
    "seismic": ("seismic", "SeismicEngine", "seismic"),
    "milvus": ("milvus", "MilvusEngine", "pymilvus"),
}


def engine_class(name: str) -> type[Engine]:
    """The class of an engine by its name.

    Raises:
        ValueError: an unknown engine.
        ImportError: the package that it needs is not installed; the message names the extra.
    """
    entry = ENGINES[check_choice("engine", name, sorted(ENGINES))]
    if isinstance(entry, type):
        return entry
    module, kind, package = entry
    if package:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"engine {name!r} needs {package}: pip install pyterrier-rescale[{name}] ({error})"
            ) from error
    return getattr(importlib.import_module(f".{module}", __name__), kind)
