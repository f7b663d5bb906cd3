"""Documents by docno, for any collection: copied once into a temporary database, so that memory stays bounded."""

from __future__ import annotations

import pickle
import sqlite3
import tempfile
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

_AT_ONCE = 500  # docnos per query; SQLite's oldest limit is 999


class DocumentStore:
    """Finds documents by docno; filled at the first look-up, by one pass over the corpus, and removed with the object.

    It takes the corpus' size on disk, in the folder for temporary files (``TMPDIR``).
    """

    def __init__(self, collection: Any):
        self._collection = collection
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def find(self, docnos: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the documents of those docnos that the collection has.

        Raises:
            ValueError: if two documents of the corpus have one docno.
        """
        wanted = list(dict.fromkeys(docno for docno in docnos if isinstance(docno, str)))
        found: dict[str, dict[str, Any]] = {}
        if not wanted:
            return found
        with closing(sqlite3.connect(self._database())) as database:  # one per call: they do not cross threads
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = database.execute(f"SELECT docno, document FROM documents WHERE docno IN ({marks})", part)
                found.update((docno, pickle.loads(document)) for docno, document in rows)
        return found

    def _database(self) -> Path:
        with self._lock:
            if self._folder is None:
                folder = tempfile.TemporaryDirectory(prefix="pyterrier-rescale-")
                self._fill(Path(folder.name, "documents.sqlite"))
                self._folder = folder
            return Path(self._folder.name, "documents.sqlite")

    def _fill(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = OFF")  # a copy of what is elsewhere
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE documents (docno TEXT, document BLOB)")
            rows = ((document["docno"], pickle.dumps(document)) for document in self._collection.corpus())
            database.executemany("INSERT INTO documents VALUES (?, ?)", rows)
            try:
                database.execute("CREATE UNIQUE INDEX by_docno ON documents (docno)")
            except sqlite3.IntegrityError as error:
                again = "SELECT docno FROM documents GROUP BY docno HAVING COUNT(*) > 1 LIMIT 1"
                (docno,) = database.execute(again).fetchone()
                raise ValueError(
                    f"collection {self._collection.name!r} has two documents with docno {docno!r}"
                ) from error
            database.commit()

    def __getstate__(self) -> dict[str, Any]:
        """The collection alone: elsewhere the store is filled again."""
        return {"_collection": self._collection}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_collection"])  # type: ignore[misc]
