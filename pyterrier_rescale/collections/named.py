"""Collections behind the names of PyTerrier datasets and of ir_datasets (`irds:`); downloads are theirs."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .._utils.text_lines import has_surrogates
from .base import Collection, make_document, order_splits
from .ids import check_id

if TYPE_CHECKING:
    import pandas as pd

_BODY_FIELDS = ("text", "body", "abstract", "contents", "default_text")
# "text" is what ir_datasets calls a query; beside it TREC-COVID has a "query" of keywords
_QUERY_FIELDS = ("text", "query", "title")


class NamedCollection(Collection):
    """A collection behind one PyTerrier dataset for the corpus and one or more for topics and qrels.

    `sources` has by split the dataset of its topics and qrels, and the variant to ask it for, if it has variants.
    """

    def __init__(self, name: str, dataset: Any, sources: dict[str, tuple[Any, str | None]]):
        self.name = name
        self.dataset = dataset
        self._sources = sources
        self._frames: dict[tuple[str, str], pd.DataFrame] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have topics and qrels."""
        return order_splits(set(self._sources))

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents; the body is the field text, body, abstract, contents or default_text.

        Raises:
            ConnectionError: if the corpus cannot be downloaded.
            ValueError: if the dataset has no corpus, or its documents have none of those fields or no fit docno.
        """
        with _clear_errors(self.name, "corpus"):
            yield from map(self._document, self.dataset.get_corpus_iter(verbose=False))

    def _document(self, doc: Mapping[str, Any]) -> dict[str, str]:
        field = next((f for f in _BODY_FIELDS if isinstance(doc.get(f), str)), None)
        if field is None:
            raise ValueError(
                f"documents of {self.name!r} have none of the fields {_BODY_FIELDS}, they have {sorted(doc)}"
            )
        docno = check_id(doc["docno"], f"docno in {self.name!r}")
        if has_surrogates(doc[field]) or has_surrogates(doc.get("title") or ""):
            raise ValueError(f"document {docno!r} of {self.name!r} holds a lone surrogate, half of a character")
        return make_document(docno, doc.get("title") or "", doc[field])

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries of a split: qid (str), query (str)."""

        def read(dataset: Any, variant: str | None) -> pd.DataFrame:
            topics = dataset.get_topics(variant) if variant else dataset.get_topics()
            field = next((f for f in _QUERY_FIELDS if f in topics.columns), None)
            if field is None:
                raise ValueError(f"topics of {self.name!r} have none of {_QUERY_FIELDS}, but {list(topics.columns)}")
            return topics[["qid", field]].rename(columns={field: "query"}).astype(str)

        return self._frame("topics", split, read)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int)."""

        def read(dataset: Any, variant: str | None) -> pd.DataFrame:
            qrels = dataset.get_qrels(variant) if variant else dataset.get_qrels()
            return qrels[["qid", "docno", "label"]].astype({"qid": str, "docno": str, "label": "int64"})

        return self._frame("qrels", split, read)

    def _frame(self, part: str, split: str, read: Callable[[Any, str | None], pd.DataFrame]) -> pd.DataFrame:
        self.check_split(split)
        if (part, split) not in self._frames:
            with _clear_errors(self.name, f"{part} of {split}"):
                self._frames[part, split] = read(*self._sources[split]).reset_index(drop=True)
        return self._frames[part, split].copy()


class IrdsCollection(NamedCollection):
    """An ir_datasets id, with the splits below it: ``irds:beir/scifact`` has ``.../train`` and ``.../test``."""

    def __init__(self, name: str, dataset: Any):
        super().__init__(name, dataset, {})

    @cached_property
    def _split_ids(self) -> dict[str, str]:
        import ir_datasets

        top = self.name.removeprefix("irds:")
        ids = {i.removeprefix(f"{top}/"): i for i in ir_datasets.registry if i.startswith(f"{top}/")}
        ids[top.rpartition("/")[2] if "/" in top else "test"] = top
        loaded = {split: ir_datasets.load(i) for split, i in ids.items()}
        return {split: i for split, i in ids.items() if loaded[split].has_queries() and loaded[split].has_qrels()}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have topics and qrels."""
        return order_splits(set(self._split_ids))

    def find(self, docnos: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the documents of those docnos, from ir_datasets' own store on disk."""
        wanted = {docno for docno in docnos if isinstance(docno, str)}
        with _clear_errors(self.name, "corpus"):
            found = self.dataset.irds_ref().docs_store().get_many(wanted) if wanted else {}
        return {docno: self._document({**doc._asdict(), "docno": docno}) for docno, doc in found.items()}

    def check_split(self, split: str) -> None:
        """Raise a ValueError for an unknown split; look a known one up."""
        super().check_split(split)
        if split not in self._sources:
            import pyterrier as pt

            self._sources[split] = (pt.get_dataset(f"irds:{self._split_ids[split]}"), None)


def named_collection(name: str) -> NamedCollection:
    """Return the collection of a PyTerrier dataset name or an ``irds:`` name; nothing is downloaded yet.

    Raises:
        ValueError: if the name is unknown (the message says what is near), or there is no home folder to keep it in.
    """
    import pyterrier as pt

    own_place = "PYTERRIER_HOME" in os.environ and not name.startswith("irds:")  # ir_datasets asks for a home anyway
    if os.path.expanduser("~") == "~" and not own_place:  # PyTerrier would make a folder called ~
        raise ValueError(f"collection {name!r} is kept in the home folder, but there is none: set HOME to a folder")
    try:
        dataset = pt.get_dataset(name)
    except KeyError as error:
        raise ValueError(unknown_name(name)) from error
    if name.startswith("irds:"):
        return IrdsCollection(name, dataset)
    from .._utils.java import ensure_java

    ensure_java()  # PyTerrier reads TREC files with Terrier
    topics, qrels = (dataset._describe_component(part) for part in ("topics", "qrels"))
    if isinstance(topics, list) and isinstance(qrels, list):
        return NamedCollection(name, dataset, {v: (dataset, v) for v in topics if v in qrels})
    return NamedCollection(name, dataset, {"test": (dataset, None)} if topics and qrels else {})


def unknown_name(name: str) -> str:
    """Return the message for an unknown name, with the nearest that there are."""
    near = " or ".join(map(repr, nearest_names(name)))
    return (
        f"unknown collection {name!r}{f'; did you mean {near}?' if near else '.'} Possible: a folder in BEIR format, "
        f"'docstrings', 'irds:<id>' (https://ir-datasets.com), or a name of pt.datasets.list_datasets()"
    )


def nearest_names(name: str) -> list[str]:
    """Return up to three collection names that look like the one given, whatever its case; prefixes may be missing."""
    try:
        from ir_datasets import registry
    except RuntimeError:  # there is no home folder
        registry = ()
    providers = importlib.metadata.entry_points(group="pyterrier.dataset_provider", name="builtin")
    names = ["docstrings", *sorted(n for provider in providers for n in provider.load()().list_dataset_names())]
    ids = sorted(registry, key=lambda one: (one.count("/"), one))
    by_key: dict[str, str] = {}
    for key, known in [
        *((n, n) for n in names),
        *((f"irds:{i}", f"irds:{i}") for i in ids),
        *((i, f"irds:{i}") for i in ids),
        *((i.rpartition("/")[2], f"irds:{i}") for i in ids if i.count("/") == 1),
    ]:
        by_key.setdefault(key.lower(), known)
    return list(dict.fromkeys(by_key[key] for key in difflib.get_close_matches(name.lower(), by_key, n=3, cutoff=0.7)))


@contextmanager
def _clear_errors(name: str, part: str) -> Iterator[None]:
    """Turn what PyTerrier and ir_datasets raise into one line that says what could not be had."""
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(f"collection {name!r} has no {part}: {error}") from error
    except (OSError, RuntimeError) as error:
        # requests' errors are OSErrors; ir_datasets raises a RuntimeError after its last mirror
        if isinstance(error, RuntimeError) and "download" not in str(error).lower():
            raise
        hosts = dict.fromkeys(re.findall(r"host=\\*'([^'\\]+)", str(error)))
        reason = f"no answer from {' or '.join(hosts)}" if hosts else (str(error).splitlines() or [""])[0][:200]
        raise ConnectionError(
            f"{part} of {name!r} could not be read or downloaded (no network?): {reason or type(error).__name__}. "
            f"Without a network, 'docstrings' and folders in BEIR format serve"
        ) from error
