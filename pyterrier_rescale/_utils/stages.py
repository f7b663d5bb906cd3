"""What the PyTerrier stages of all rooms share."""

from __future__ import annotations

from typing import Any

#: Where a query encoder keeps only some terms: the column with all of them, for a scorer that follows.
ALL_TOKS = "query_toks_all"


def schematic(stage: Any, label: str) -> dict[str, Any]:
    """A drawing that needs no network: without ``help_url`` PyTerrier would download its documentation's index."""
    help_url = "https://pyterrier.readthedocs.io/en/latest/ext/pyterrier-rescale/"
    return {"label": label, "name": repr(stage), "help_url": help_url}
