"""Collections of one's own: files, frames or dicts; also a folder in BEIR's format, which `write_beir` writes."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.checks import warn
from .._utils.files import expand, whole_folder
from .base import Collection, order_splits
from .files import check_id, read_document, read_table, rows_of


class OwnCollection(Collection):
    """Documents, topics and judgements of one's own; `load_collection` explains the arguments."""

    def __init__(self, documents: Any, topics: Any = None, qrels: Any = None, *, name: str = "own-data"):
        self.name = name
        judged = {} if qrels is None else qrels if isinstance(qrels, Mapping) else {"test": qrels}
        self._documents, self._topics = _again(documents), _again(topics)
        self._judged = {split: _again(rows) for split, rows in judged.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(self._judged)

    def corpus(self) -> Iterator[dict[str, Any]]:
        """Iterate over the documents, read anew; other columns, and the keys of ``metadata``, come along."""
        seen: set[str] = set()
        for where, row in rows_of(self._documents, "documents"):
            document = read_document(where, row)
            if document["docno"] in seen:
                raise ValueError(f"{where}: docno {document['docno']!r} was there before")
            seen.add(document["docno"])
            yield document

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries that the qrels of a split judge: qid (str), query (str), in their order.

        A warning tells judged queries that are missing or blank; a ValueError, if all are.
        """
        judged = set(self.qrels(split)["qid"])
        topics = self._topics_table[self._topics_table["qid"].isin(judged)].reset_index(drop=True)
        lost = sorted(judged.difference(topics["qid"][topics["query"].str.strip() != ""]))
        told = f"{len(lost):,} of {len(judged):,} judged queries are missing or blank, such as {lost[:1]}"
        if lost and len(lost) == len(judged):
            raise ValueError(f"collection {self.name!r}, split {split!r}: {told}")
        if lost:
            warn(f"collection {self.name!r}, split {split!r}: {told}")
        return topics

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int), in their order.

        Documents that the corpus lacks stay: as relevant and not found.
        """
        self.check_split(split)
        return read_table(rows_of(self._judged[split], "qrels"), "qid", "docno", "label")

    def check(self) -> None:
        """Read everything once, so that mistakes are told before the work; also that ids of both sides fit."""
        docnos = {document["docno"] for document in self.corpus()}
        if not docnos:
            raise ValueError(f"documents hold no document{_file(self._documents)}")
        if self.splits and not any(len(self.qrels(split)) for split in self.splits):
            raise ValueError(f"qrels hold no judgement{_file(self._judged[self.splits[0]])}")
        for split in self.splits:
            self.topics(split)
            judged = set(self.qrels(split)["docno"])
            if judged and judged.isdisjoint(docnos):
                raise ValueError(
                    f"none of the {len(judged):,} judged documents of split {split!r}, such as {min(judged)!r}, is "
                    f"among the {len(docnos):,} documents, such as {min(docnos)!r}"
                )

    def all_topics(self) -> pd.DataFrame:
        """Return all queries, judged or not."""
        return self._topics_table.copy()

    @cached_property
    def _topics_table(self) -> pd.DataFrame:
        return read_table(rows_of(self._topics, "topics"), "qid", "query")


def _file(rows: Any) -> str:
    return f": {os.fspath(rows)!r}" if isinstance(rows, (str, os.PathLike)) else ""


def _again(rows: Any) -> Any:
    """What can be read several times; None is no rows."""
    return [] if rows is None else list(rows) if isinstance(rows, Iterator) else rows


class BeirCollection(OwnCollection):
    """A collection in a folder, of BEIR's format (Thakur et al., NeurIPS 2021) or of one's own tables, read by lines.

    Args:
        path: the folder, with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
            and ``qrels/<split>.tsv`` (query-id, corpus-id, score, under a header or without). ``documents.csv``,
            ``topics.csv`` and ``qrels.csv`` (split test) serve as well, each may be CSV, TSV or JSONL and end in
            ``.gz``, and judgements may have TREC's columns. Hidden files are passed over.
        name: default: the folder's name.

    Raises:
        FileNotFoundError: if the folder or its documents are missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None):
        self.path = expand(path)
        documents = table_in(self.path, "corpus", "documents")
        if documents is None:
            missing = "holds no corpus.jsonl and no documents.csv" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{str(self.path)!r} {missing}; names of ir_datasets begin with 'irds:'")
        judged = {}
        for file in sorted((self.path / "qrels").rglob("*")):
            name_of_file = file.relative_to(self.path / "qrels").as_posix()
            split = re.sub(r"(?i)\.(tsv|csv|jsonl|ndjson|json|txt|qrels|trec)(\.gz)?$", "", name_of_file)
            if split != name_of_file and not re.search(r"(^|/)\.", name_of_file):  # hidden ones are a Mac's
                judged.setdefault(split, file)
        if (test := table_in(self.path, "qrels")) is not None:
            judged.setdefault("test", test)
        topics = table_in(self.path, "queries", "topics")
        super().__init__(documents, topics, judged, name=name or self.path.resolve().name)


def table_in(folder: Path, *names: str) -> Path | None:
    """The first file of these names in a folder, of the endings of tables."""
    endings = [ending + packed for packed in ("", ".gz") for ending in (".jsonl", ".csv", ".tsv", ".ndjson", ".json")]
    files = {file.name.lower(): file for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}
    return next((files[name + end] for name in names for end in endings if name + end in files), None)


def write_beir(collection: Collection, path: str | os.PathLike[str]) -> BeirCollection:
    """Write a collection as a folder in BEIR format and open it.

    The folder is written beside and then renamed: it is whole, or it is not there.

    Args:
        collection: what to write; keys of documents beyond docno, text, title and body go to ``metadata``.
        path: a folder that does not exist yet, or is empty.

    Raises:
        FileExistsError: if there is something in `path` already.
        AttributeError, ValueError: for what the format cannot hold, such as one qid with two queries.
    """
    with whole_folder(path) as folder:
        with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8", compresslevel=4) as out:
            for doc in collection.corpus():
                row: dict[str, Any] = {
                    "_id": check_id(doc["docno"], "docno"), "title": doc.get("title", ""),
                    "text": doc.get("body", doc["text"]),
                }  # fmt: skip
                if extra := {key: doc[key] for key in doc if key not in ("docno", "text", "title", "body")}:
                    row["metadata"] = extra
                # arrays and numbers of numpy, which frames and Parquet files give, know their values as Python's
                out.write(json.dumps(row, ensure_ascii=False, default=methodcaller("tolist")) + "\n")
        topics: list[tuple[str, dict[str, str]]] = []
        for split in collection.splits:
            file = folder / "qrels" / f"{split}.tsv"
            file.parent.mkdir(parents=True, exist_ok=True)
            qrels = collection.qrels(split)[["qid", "docno", "label"]]
            qrels.to_csv(file, sep="\t", index=False, header=["query-id", "corpus-id", "score"])
            topics += rows_of(collection.topics(split), f"topics of {split}")
        queries = read_table(topics, "qid", "query").set_axis(["_id", "text"], axis=1)  # one query for each qid
        queries.to_json(folder / "queries.jsonl", orient="records", lines=True, force_ascii=False)
    return BeirCollection(path)
