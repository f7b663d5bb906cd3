"""Collections behind the names of PyTerrier datasets and of ir_datasets (`irds:`); downloads are theirs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .base import Collection, order_splits
from .files import read_document

if TYPE_CHECKING:
    import pandas as pd


class NamedCollection(Collection):
    """A collection behind one PyTerrier dataset for the corpus and one or more for topics and qrels.

    `sources` has by split the dataset of its topics and qrels, and the variant to ask it for, if it has variants.
    """

    splits: tuple[str, ...] = ()

    def __init__(self, name: str, dataset: Any, sources: dict[str, tuple[Any, str | None]]):
        self.name, self.dataset = name, dataset
        self.splits, self._sources = order_splits(sources), sources

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents; the body is the field text, body, abstract, contents or default_text.

        Raises:
            ConnectionError: if there is no corpus, or it cannot be downloaded.
        """
        with _clear_errors(self.name, "corpus"):
            yield from map(self._document, self.dataset.get_corpus_iter(verbose=False))

    def _document(self, doc: Mapping[str, Any]) -> dict[str, str]:
        return read_document(self.name, {name: value for name, value in doc.items() if isinstance(value, str)})

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries of a split: qid (str), query (str)."""
        topics = self._part("topics", split)
        # "text" is what ir_datasets calls a query; beside it TREC-COVID has a "query" of keywords
        field = next((name for name in ("text", "query") if name in topics), "title")
        return topics[["qid", field]].set_axis(["qid", "query"], axis=1).astype(str).reset_index(drop=True)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int)."""
        qrels = self._part("qrels", split)[["qid", "docno", "label"]]
        return qrels.astype({"qid": str, "docno": str, "label": "int64"}).reset_index(drop=True)

    def _part(self, part: str, split: str) -> pd.DataFrame:
        self.check_split(split)
        dataset, variant = self._sources[split]
        with _clear_errors(self.name, f"{part} of {split}"):
            return getattr(dataset, f"get_{part}")(*[variant] if variant else [])


class IrdsCollection(NamedCollection):
    """An ir_datasets id, with the splits below it: ``irds:beir/scifact`` has ``.../train`` and ``.../test``."""

    def all_topics(self) -> pd.DataFrame:
        """Return the queries of the id itself where it has any, else those of all splits below it."""
        own = self.name.rpartition("/")[2]
        return self.topics(own) if own in self.splits else super().all_topics()

    def find(self, docnos: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the documents of those docnos, from ir_datasets' own store on disk."""
        with _clear_errors(self.name, "corpus"):
            found = self.dataset.irds_ref().docs_store().get_many(set(docnos))
        return {docno: self._document({**doc._asdict(), "docno": docno}) for docno, doc in found.items()}


def named_collection(name: str) -> NamedCollection:
    """Return the collection of a PyTerrier dataset name or an ``irds:`` name; nothing is downloaded yet."""
    import pyterrier as pt

    try:
        dataset = pt.get_dataset(name)
    except KeyError as error:
        near = " or ".join(map(repr, nearest_names(name)))
        raise ValueError(
            f"unknown collection {name!r}{f'; did you mean {near}?' if near else '.'} Possible: a folder or file of "
            "yours, 'docstrings', 'irds:<id>' (https://ir-datasets.com), or a name of pt.datasets.list_datasets()"
        ) from error
    if name.startswith("irds:"):
        import ir_datasets

        top = name.removeprefix("irds:")
        ids = {i.removeprefix(f"{top}/"): i for i in ir_datasets.registry if i.startswith(f"{top}/")}
        ids[top.rpartition("/")[2] if "/" in top else "test"] = top
        loaded = {split: ir_datasets.load(i) for split, i in ids.items()}
        judged = [split for split in ids if loaded[split].has_queries() and loaded[split].has_qrels()]
        return IrdsCollection(name, dataset, {split: (pt.get_dataset(f"irds:{ids[split]}"), None) for split in judged})
    from .._utils.java import ensure_java

    ensure_java()  # PyTerrier reads TREC files with Terrier
    topics, qrels = (dataset._describe_component(part) for part in ("topics", "qrels"))
    if isinstance(topics, list) and isinstance(qrels, list):
        return NamedCollection(name, dataset, {v: (dataset, v) for v in topics if v in qrels})
    return NamedCollection(name, dataset, {"test": (dataset, None)} if topics and qrels else {})


def nearest_names(name: str) -> list[str]:
    """Return up to three collection names that look like the one given, whatever its case; prefixes may be missing."""
    import pyterrier as pt

    by_key: dict[str, str] = {}
    for known in ["docstrings", *sorted(pt.datasets.list_datasets()["dataset"], key=lambda one: one.count("/"))]:
        for key in (known, known.removeprefix("irds:"), known.rpartition("/")[2]):
            by_key.setdefault(key.lower(), known)
    return list(dict.fromkeys(by_key[key] for key in difflib.get_close_matches(name.lower(), by_key, n=3, cutoff=0.7)))


@contextmanager
def _clear_errors(name: str, part: str) -> Iterator[None]:
    """Turn what requests and ir_datasets raise, in many lines, into one that says what could not be had."""
    try:
        yield
    except (OSError, RuntimeError, NotImplementedError) as error:
        raise ConnectionError(
            f"{part} of {name!r} is not there, or could not be downloaded (no network?): {str(error).strip():.200}"
        ) from error
