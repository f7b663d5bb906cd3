"""Train a SPLADE encoder from a masked LM, with the head rescaled first (arXiv:2606.18811)."""

from __future__ import annotations

from .config import TrainConfig
from .monitor import CollapseError
from .run import train
from .teacher import score

__all__ = ["CollapseError", "TrainConfig", "score", "train"]
