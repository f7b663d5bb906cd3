"""Texts to sparse vectors: tokens, kernel, screening, terms, and the folder that an encoder is saved in."""
