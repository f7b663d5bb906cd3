"""A masked LM and its output head: find it, load it, divide it."""
