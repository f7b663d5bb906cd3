"""Make any masked-LM backbone a good SPLADE: audit its head, rescale it, train, retrieve, all in PyTerrier."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names resolve on first use (PEP 562): `import pyterrier_rescale` loads neither torch nor a JVM.
_HOME = {
    "Calibration": "analysis.calibration",
    "CollapseError": "training",
    "HeadAudit": "analysis.head_audit",
    "LexicalEncoder": "splade",
    "Splade": "splade",
    "Vectors": "indexing.vectors.folder",
    "add_mlm_head": "heads.mlm_head",
    "audit": "analysis.head_audit",
    "calibrate": "analysis.calibration",
    "encode": "indexing.vectors.run",
    "load_collection": "collections",
    "open_index": "indexing.engines",
    "open_vectors": "indexing.vectors.folder",
    "rescale": "heads.rescaling",
    "small_backbone": "backbones",
    "compare": "evaluation.comparison",
    "systems": "indexing.build",
    "train": "training",
}

__all__ = [
    "Calibration",
    "CollapseError",
    "HeadAudit",
    "LexicalEncoder",
    "Splade",
    "Vectors",
    "__version__",
    "add_mlm_head",
    "audit",
    "calibrate",
    "compare",
    "encode",
    "load_collection",
    "open_index",
    "open_vectors",
    "rescale",
    "small_backbone",
    "systems",
    "train",
]

if TYPE_CHECKING:
    from .analysis.calibration import Calibration, calibrate
    from .analysis.head_audit import HeadAudit, audit
    from .backbones import small_backbone
    from .collections import load_collection
    from .evaluation.comparison import compare
    from .heads.mlm_head import add_mlm_head
    from .heads.rescaling import rescale
    from .indexing.build import systems
    from .indexing.engines import open_index
    from .indexing.vectors.folder import Vectors, open_vectors
    from .indexing.vectors.run import encode
    from .splade import LexicalEncoder, Splade
    from .training import CollapseError, train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
