"""Splade, what a user types: settings and factory, and the three stages that it makes."""

from .encoder import Splade

__all__ = ["Splade"]
