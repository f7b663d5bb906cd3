"""Collections behind the names of PyTerrier datasets and of ir_datasets (`irds:`); downloads are theirs."""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .base import Collection, make_document, order_splits

if TYPE_CHECKING:
    import pandas as pd

_BODY_FIELDS = ("text", "body", "abstract", "contents", "default_text")
# "text" is what ir_datasets calls a query; beside it TREC-COVID has a "query" of keywords
_QUERY_FIELDS = ("text", "query", "title")


class NamedCollection(Collection):
    """A collection behind one PyTerrier dataset for the corpus and one or more for topics and qrels.

    Args:
        name: what `load_collection` was asked for.
        dataset: gives the corpus (``get_corpus_iter``).
        sources: by split, the dataset that has its topics and qrels, and the variant to ask it for, if it has variants.
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
            ValueError: if the dataset has no corpus, or its documents have none of those fields.
        """
        with _clear_errors(self.name, "corpus"):
            for doc in self.dataset.get_corpus_iter(verbose=False):
                field = next((f for f in _BODY_FIELDS if isinstance(doc.get(f), str)), None)
                if field is None:
                    raise ValueError(
                        f"documents of {self.name!r} have none of the fields {_BODY_FIELDS}, they have {sorted(doc)}"
                    )
                yield make_document(str(doc["docno"]), doc.get("title") or "", doc[field])

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
    """An ir_datasets id, with the splits below it: ``irds:beir/scifact`` has ``.../train`` and ``.../test``.

    Args:
        name: ``irds:<id>``.
        dataset: the PyTerrier dataset of that id.
    """

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

    def check_split(self, split: str) -> None:
        """Raise a ValueError for an unknown split; look a known one up."""
        super().check_split(split)
        if split not in self._sources:
            import pyterrier as pt

            self._sources[split] = (pt.get_dataset(f"irds:{self._split_ids[split]}"), None)


def named_collection(name: str) -> NamedCollection:
    """Return the collection of a PyTerrier dataset name or an ``irds:`` name; nothing is downloaded yet.

    Raises:
        ValueError: if the name is unknown; the message lists what is possible.
    """
    import pyterrier as pt

    try:
        dataset = pt.get_dataset(name)
    except KeyError as error:
        raise ValueError(_unknown(name)) from error
    if name.startswith("irds:"):
        return IrdsCollection(name, dataset)
    from ..indexing.java import ensure_java

    ensure_java()  # PyTerrier reads TREC files with Terrier
    topics, qrels = (dataset._describe_component(part) for part in ("topics", "qrels"))
    if isinstance(topics, list) and isinstance(qrels, list):
        return NamedCollection(name, dataset, {v: (dataset, v) for v in topics if v in qrels})
    return NamedCollection(name, dataset, {"test": (dataset, None)} if topics and qrels else {})


def _unknown(name: str) -> str:
    if name.startswith("irds:"):
        import ir_datasets

        names = [f"irds:{i}" for i in ir_datasets.registry]
    else:
        providers = importlib.metadata.entry_points(group="pyterrier.dataset_provider", name="builtin")
        names = sorted(known for provider in providers for known in provider.load()().list_dataset_names())
    close = difflib.get_close_matches(name, [*names, "docstrings"], n=3)
    possible = "see https://ir-datasets.com" if name.startswith("irds:") else f"PyTerrier names: {', '.join(names)}"
    return (
        f"unknown collection {name!r}{'; did you mean ' + ' or '.join(map(repr, close)) + '?' if close else ''}. "
        f"Possible: a folder in BEIR format, 'docstrings', 'irds:<id>', or a PyTerrier dataset name ({possible})"
    )


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
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ConnectionError(f"{part} of {name!r} could not be read or downloaded (no network?): {first}") from error
