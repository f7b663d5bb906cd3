"""Make any masked-LM backbone a good SPLADE: audit its head, rescale it, train, retrieve, all in PyTerrier."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names resolve on first use (PEP 562): `import pyterrier_rescale` loads neither torch nor a JVM.
_HOME = {
    "Calibration": "calibration",
    "CollapseError": "training",
    "HeadAudit": "head_audit",
    "Splade": "transformers",
    "audit": "head_audit",
    "calibrate": "calibration",
    "load_collection": "collections",
    "open_index": "engines",
    "rescale": "rescaling",
    "small_backbone": "backbones",
    "compare": "comparison",
    "systems": "pipelines",
    "train": "training",
}

__all__ = [
    "Calibration",
    "CollapseError",
    "HeadAudit",
    "Splade",
    "__version__",
    "audit",
    "calibrate",
    "compare",
    "load_collection",
    "open_index",
    "rescale",
    "small_backbone",
    "systems",
    "train",
]

if TYPE_CHECKING:
    from .backbones import small_backbone
    from .calibration import Calibration, calibrate
    from .collections import load_collection
    from .comparison import compare
    from .engines import open_index
    from .head_audit import HeadAudit, audit
    from .pipelines import systems
    from .rescaling import rescale
    from .training import CollapseError, train
    from .transformers import Splade


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
