"""Document vectors in the formats of other search engines, one module each."""
