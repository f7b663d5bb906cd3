"""The command ``pyterrier-rescale``."""

from .app import main

__all__ = ["main"]
