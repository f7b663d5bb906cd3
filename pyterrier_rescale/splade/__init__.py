"""What a user types: Splade, the model-free LexicalEncoder of the same interface, and the stages that they make."""

from .encoder import Splade
from .lexical import LexicalEncoder

__all__ = ["LexicalEncoder", "Splade"]
