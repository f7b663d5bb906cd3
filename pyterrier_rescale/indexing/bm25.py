"""BM25 in Terrier over texts: a tokeniser that serves the script, an index that knows what it was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.files import whole_folder
from .._utils.java import index_by_terrier, start_java, terrier_statistic
from .._utils.made_from import check_same, read_record
from .._utils.progress import progress_bar

_RECORD = "made-from.json"
# Terrier's English tokeniser drops all but ASCII: from this share of other letters on, it does not serve.
_FOREIGN = 0.01
# Scripts that put no spaces between words: every character becomes one.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)


def choose_tokeniser(documents: Iterable[str], queries: Iterable[str]) -> str:
    """``"english"``, Terrier's default, or ``"utf"`` where the first texts or queries hold letters that that drops."""
    for texts in (documents, queries):
        beginnings = "".join(text[:5000] for text in islice(texts, 1000))
        letters = [character.isascii() for character in beginnings if character.isalpha()]
        if letters.count(False) > _FOREIGN * len(letters):
            return "utf"
    return "english"


def build_bm25(
    documents: Callable[[], Iterable[Mapping[str, str]]],
    path: Path,
    *,
    tokeniser: str = "english",
    made_from: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> None:
    """Index ``docno`` and ``text`` with Terrier's defaults (Porter stems, stop words), or find the same index there.

    ``documents`` gives a fresh iterator at each call; ``made_from`` tells them from others.

    Raises:
        ValueError: the index that is there was made from other documents, or with another tokeniser.
        FileExistsError: something else is at ``path``.
        RuntimeError: Terrier indexed fewer documents than there are, or there is no Java.
    """
    start_java()
    wanted, found = {"tokeniser": tokeniser, **(made_from or {})}, read_record(path, _RECORD)
    if found is not None:
        check_same(path, found, wanted)
        return
    lengths = [len(document["docno"].encode()) for document in documents()]
    shown = progress_bar(documents(), desc="BM25: indexing", unit="doc", disable=not verbose)
    fields = ({"docno": document["docno"], "text": _words(document["text"], tokeniser)} for document in shown)
    with whole_folder(path) as folder:
        indexer = pt.terrier.TerrierIndex(folder).indexer(meta={"docno": max(lengths, default=1)}, tokeniser=tokeniser)
        index_by_terrier(indexer, fields)
        held = terrier_statistic(folder, "Documents")
        if held != len(lengths):
            raise RuntimeError(f"Terrier indexed {held} of {len(lengths)} documents for BM25")
        (folder / _RECORD).write_text(json.dumps(wanted), encoding="utf-8")


def bm25(path: Path, num_results: int) -> pt.Transformer:
    """BM25 (Terrier's k1=1.2, b=0.75) over what :func:`build_bm25` built: ``qid, query`` -> ``docno, score, rank``.

    Where no document has a term (all blank, or stop words), no query finds anything.
    """
    start_java()
    tokeniser = read_record(path, _RECORD)["tokeniser"]
    if not terrier_statistic(path, "Terms"):
        return nothing()
    words = pt.apply.query(lambda row: _words(row["query"], tokeniser))
    return words >> pt.rewrite.tokenise(tokeniser) >> pt.terrier.TerrierIndex(path).bm25(num_results=num_results)


def nothing() -> pt.Transformer:
    """A retriever that finds nothing: ``qid, query`` -> no rows."""
    def no_rows(topics: pd.DataFrame) -> pd.DataFrame:
        return topics.iloc[:0].assign(docno="", score=0.0, rank=0)

    return pt.apply.generic(no_rows, required_columns=["qid", "query"])


def _words(text: str, tokeniser: str) -> str:
    return _UNSPACED.sub(r" \1 ", text) if tokeniser == "utf" else text
