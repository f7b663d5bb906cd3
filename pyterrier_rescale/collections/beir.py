"""Collections in folders of BEIR's format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or .gz."""

from __future__ import annotations

import gzip
import json
import os
import re
import warnings
from collections.abc import Iterator
from functools import cached_property
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.files import expand, whole_folder
from .base import Collection, make_document, order_splits
from .files import check_id, check_text, read_jsonl, read_qrels, with_ids

# Of files of judgements; at the root, only of the first two, where others may hold pairs of texts.
_ENDINGS = ("tsv", "csv", "jsonl", "txt", "qrels", "trec")


class BeirCollection(Collection):
    """A collection in a folder of BEIR's format (Thakur et al., NeurIPS 2021); the corpus is streamed.

    Args:
        path: the folder, with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
            and ``qrels/<split>.tsv`` (query-id, corpus-id, score, under a header or without; ``.csv``, ``.jsonl`` and
            TREC's columns serve as well); each may end in ``.gz``. Hidden files are passed over, byte-order marks and
            CRLF are understood.
        name: default: the folder's name.

    Raises:
        FileNotFoundError: if the folder or its corpus is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None):
        self.path = expand(path)
        if self.path.is_file():
            raise NotADirectoryError(
                f"{str(self.path)!r} is a file, and a collection a folder in BEIR format; a frame of it goes to "
                "load_collection(documents=frame)"
            )
        self.name = name or self.path.resolve().name
        self._corpus_file = self._file("corpus.jsonl")

    @cached_property
    def _judgements(self) -> tuple[dict[str, Path], list[str]]:
        """Files of judgements by split, and the names of files that are not read; hidden ones (a Mac's) are neither."""
        read: dict[str, Path] = {}
        others: list[str] = []
        for folder, found in ((self.path / "qrels", "**/*"), (self.path, "*")):
            for file in sorted(folder.glob(found)):
                name = file.relative_to(folder).as_posix()
                if not file.is_file() or re.search(r"(^|/)\.", name) or name.startswith(("corpus.", "queries.")):
                    continue
                split, _, ending = name.removesuffix(".gz").rpartition(".")
                known = {"training": "train"}.get(split.lower(), split.lower())
                split = known if known in ("train", "dev", "test") else split
                if ending in (_ENDINGS if folder != self.path else _ENDINGS[:2] if split == known else ()):
                    read.setdefault(split, file)
                else:
                    others.append(file.relative_to(self.path).as_posix())
        return read, others

    @property
    def not_read(self) -> str:
        """What the warning of a missing train split says of files that are not read."""
        others = ", ".join(self._judgements[1])
        return f"; not read as judgements: {others}" if others else ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(self._judgements[0])

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents, read line by line; the keys of ``metadata`` come along if it is an object.

        Raises:
            ValueError: for a line of another form, a bad id or one that was there before; it names file and line.
        """
        for where, docno, row in with_ids(read_jsonl(self._corpus_file), "_id"):
            title = "" if row.get("title") is None else check_text(row["title"], f"{where}: title of {docno!r}")
            doc = make_document(docno, title, check_text(row.get("text"), f"{where}: text of {docno!r}"))
            extra = row.get("metadata")
            yield {**extra, **doc} if isinstance(extra, dict) else doc

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries that the qrels of a split judge: qid (str), query (str), in the order of the file.

        A warning tells judged queries that are missing, and blank ones; a ValueError, if all are missing.
        """
        judged = set(self.qrels(split)["qid"])
        rows = [(qid, query) for qid, query in self._queries.items() if qid in judged]
        missing = sorted(judged.difference(self._queries))
        if judged and not rows:
            raise ValueError(
                f"collection {self.name!r}: none of the {len(judged):,} queries that split {split!r} judges, such as "
                f"{missing[0]!r}, is in {self._file('queries.jsonl')}"
            )
        for qids, what in ((missing, "judged but missing"), ([q for q, text in rows if not text.strip()], "blank")):
            if qids:
                shown = ", ".join([*map(repr, qids[:3]), *(["..."] if len(qids) > 3 else [])])
                warnings.warn(
                    f"collection {self.name!r}, split {split!r}: {len(qids):,} queries are {what} ({shown})",
                    stacklevel=2,
                )
        return pd.DataFrame(rows, columns=["qid", "query"], dtype=str)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int), in the order of the file.

        Documents that the corpus lacks stay: as relevant and not found.
        """
        self.check_split(split)
        return read_qrels(self._judgements[0][split])

    @cached_property
    def _queries(self) -> dict[str, str]:
        rows = with_ids(read_jsonl(self._file("queries.jsonl")), "_id")
        return {qid: check_text(row.get("text"), f"{where}: text of {qid!r}") for where, qid, row in rows}

    def _file(self, name: str) -> Path:
        for file in (self.path / name, self.path / f"{name}.gz"):
            if file.is_file():
                return file
        missing = f"has neither {name} nor {name}.gz" if self.path.is_dir() else "does not exist"
        raise FileNotFoundError(f"collection folder {str(self.path)!r} {missing}")


def write_beir(collection: Collection, path: str | os.PathLike[str]) -> BeirCollection:
    """Write a collection as a folder in BEIR format and open it.

    The folder is written beside and then renamed: it is whole, or it is not there.

    Args:
        collection: what to write; keys of documents beyond docno, text, title and body go to ``metadata``.
        path: a folder that does not exist yet, or is empty.

    Raises:
        FileExistsError: if there is something in `path` already.
        AttributeError: for a value that JSON cannot hold.
        ValueError: for ids with white space, or one qid with two queries.
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
        topics = [pd.DataFrame({"_id": [], "text": []})]
        for split in collection.splits:
            file = folder / "qrels" / f"{split}.tsv"
            file.parent.mkdir(parents=True, exist_ok=True)
            qrels = collection.qrels(split)[["qid", "docno", "label"]]
            qrels.to_csv(file, sep="\t", index=False, header=["query-id", "corpus-id", "score"])
            topics.append(collection.topics(split)[["qid", "query"]].set_axis(["_id", "text"], axis=1))
        queries = pd.concat(topics).drop_duplicates()
        for qid, again in zip(queries["_id"], queries["_id"].duplicated(), strict=True):
            check_id(qid, "qid")
            if again:
                raise ValueError(f"qid {qid!r} has other queries in other splits: the format knows one for each qid")
        queries.to_json(folder / "queries.jsonl", orient="records", lines=True, force_ascii=False)
    return BeirCollection(path)
