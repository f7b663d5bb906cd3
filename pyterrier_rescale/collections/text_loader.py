"""Texts by docno: a store of a corpus, and the PyTerrier stage that adds its texts to results for rerankers."""

from __future__ import annotations

import pickle
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.stages import Stage

FIELDS = ("text", "title", "body")


class DocumentStore:
    """Documents by docno, copied into a temporary database on the disk, which is removed with the object."""

    def __init__(self, documents: Iterable[Mapping[str, Any]]):
        self._folder = tempfile.TemporaryDirectory(prefix="pyterrier-rescale-")
        self._path = Path(self._folder.name, "documents.sqlite")
        with closing(sqlite3.connect(self._path)) as database:
            database.execute("CREATE TABLE documents (docno TEXT PRIMARY KEY, document BLOB)")
            rows = ((document["docno"], pickle.dumps(document)) for document in documents)
            database.executemany("INSERT INTO documents VALUES (?, ?)", rows)
            database.commit()

    def find(self, docnos: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the documents of those docnos that are there."""
        found = {}
        with closing(sqlite3.connect(self._path)) as database:  # one per call: they do not cross threads
            for docno in dict.fromkeys(docnos):
                row = database.execute("SELECT document FROM documents WHERE docno = ?", (docno,)).fetchone()
                if row is not None:
                    found[docno] = pickle.loads(row[0])
        return found


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
