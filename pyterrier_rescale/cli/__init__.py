"""The command ``pyterrier-rescale``."""

from .entry import main

__all__ = ["main"]
