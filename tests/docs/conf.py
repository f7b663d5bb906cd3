"""Sphinx's settings for building pyterrier_rescale/pt_docs by itself, with the extensions of PyTerrier's docs."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

project = "pyterrier_rescale"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "directives"]
html_theme = "alabaster"
html_theme_options = {"description": "SPLADE from any backbone", "page_width": "1250px", "body_max_width": "none"}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
