"""The PyTerrier stage that adds a collection's texts to results, for rerankers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.stages import Stage

FIELDS = ("text", "title", "body")


class TextLoader(Stage):
    """``docno`` -> ``+text, title, body``; made by `Collection.text_loader`, which explains the arguments."""

    _call, _label = "text_loader", "TextLoader"

    def __init__(self, collection: Any, fields: tuple[str, ...] = FIELDS, *, verbose: bool = False):
        self.collection = collection
        self.fields = fields
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the columns to a frame with ``docno``; rows and other columns stay."""
        pt.validate.columns(inp, includes=["docno"], context=self)
        docnos = inp["docno"].tolist()
        documents = self.collection.find(docnos) if docnos else {}
        if unknown := [docno for docno in dict.fromkeys(docnos) if docno not in documents]:
            raise ValueError(
                f"{self!r}: {len(unknown):,} docnos are not in the collection, such as "
                f"{', '.join(map(repr, unknown[:3]))}: are the results of another collection?"
            )
        columns = {field: [documents[docno][field] for docno in docnos] for field in self.fields}
        return inp.assign(**{name: pd.Series(values, inp.index, object) for name, values in columns.items()})
