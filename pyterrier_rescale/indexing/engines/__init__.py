"""Engines: each is one class that builds its files from vectors, opens them, and searches them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..._utils.checks import check_choice

if TYPE_CHECKING:
    from .base import Engine

#: name -> the package that its module of this name needs, or a class
ENGINES: dict[str, str | type[Engine]] = {
    "terrier": "", "pisa": "pyterrier_pisa", "exact": "", "seismic": "seismic", "milvus": "pymilvus"
}  # fmt: skip


def engine_class(name: str) -> type[Engine]:
    """The class of an engine by its name; ``ImportError`` names the extra if its package is not installed."""
    package = ENGINES[check_choice("engine", name, sorted(ENGINES))]
    if isinstance(package, type):
        check_choice(f"name of {package.__name__}", package.name, [name])  # which a manifest keeps
        return package
    try:
        importlib.import_module(package or __name__)
    except ImportError as error:
        told = f"engine {name!r} needs {package}: pip install pyterrier-rescale[{name}] ({error})"
        raise ImportError(told) from error
    return getattr(importlib.import_module(f".{name}", __name__), f"{name.capitalize()}Engine")
