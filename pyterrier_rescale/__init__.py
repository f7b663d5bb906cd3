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
    "Vectors": "indexing.vectors",
    "add_mlm_head": "heads.mlm_head",
    "audit": "analysis.head_audit",
    "bm25": "evaluation.baseline",
    "calibrate": "analysis.calibration",
    "encode": "indexing.encode",
    "load_collection": "collections",
    "open_index": "indexing.index",
    "open_vectors": "indexing.vectors",
    "rescale": "heads.rescaling",
    "small_backbone": "backbones",
    "compare": "evaluation.comparison",
    "systems": "indexing.build",
    "train": "training",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .analysis.calibration import Calibration as Calibration
    from .analysis.calibration import calibrate as calibrate
    from .analysis.head_audit import HeadAudit as HeadAudit
    from .analysis.head_audit import audit as audit
    from .backbones import small_backbone as small_backbone
    from .collections import load_collection as load_collection
    from .evaluation.baseline import bm25 as bm25
    from .evaluation.comparison import compare as compare
    from .heads.mlm_head import add_mlm_head as add_mlm_head
    from .heads.rescaling import rescale as rescale
    from .indexing.build import systems as systems
    from .indexing.encode import encode as encode
    from .indexing.index import open_index as open_index
    from .indexing.vectors import Vectors as Vectors
    from .indexing.vectors import open_vectors as open_vectors
    from .splade import LexicalEncoder as LexicalEncoder
    from .splade import Splade as Splade
    from .training import CollapseError as CollapseError
    from .training import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
