"""Training data: rows of texts, from objects, files, or ids."""
