"""A PyTerrier stage that adds a collection's texts to results, for rerankers such as ``splade.scorer()``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.stages import Stage

FIELDS = ("text", "title", "body")


class TextLoader(Stage):
    """``docno`` -> ``+text, title, body``; made by `Collection.text_loader`, which explains the arguments."""

    _maker, _call, _label = "collection", "text_loader", "TextLoader"
    _defaults = {"fields": FIELDS}

    def __init__(self, collection: Any, fields: tuple[str, ...] = FIELDS, *, verbose: bool = False):
        self.collection = collection
        self.fields = fields
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the columns to a frame with ``docno``; rows and other columns stay.

        Raises:
            ValueError: if the collection lacks a docno, or a document lacks a field.
        """
        pt.validate.columns(inp, includes=["docno"], context=self)
        docnos = inp["docno"].tolist()
        documents = self.collection.find(docnos)
        if unknown := [docno for docno in dict.fromkeys(docnos) if docno not in documents]:
            raise ValueError(
                f"{self!r}: {len(unknown):,} docnos are not in the collection, such as "
                f"{', '.join(map(repr, unknown[:3]))}: are the results of another collection?"
            )
        return inp.assign(
            **{field: pd.Series(self._values(field, docnos, documents), inp.index, object) for field in self.fields}
        )

    def _values(self, field: str, docnos: list[str], documents: Mapping[str, Mapping[str, Any]]) -> list[Any]:
        for docno in docnos:
            if field not in documents[docno]:
                there = ", ".join(map(str, documents[docno]))
                raise ValueError(f"{self!r}: document {docno!r} has no field {field!r}; it has {there}")
        return [documents[docno][field] for docno in docnos]

    def __repr__(self) -> str:
        given = "" if self.fields == FIELDS else repr(list(self.fields))
        return f"{self.collection!r}.text_loader({given})"
