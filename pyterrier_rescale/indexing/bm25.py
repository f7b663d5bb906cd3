"""BM25 in Terrier over texts: a tokeniser that serves the script, an index that knows what it was made from."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.java import errors_only, start_java
from .._utils.paths import whole_folder
from .._utils.progress import progress_bar
from .._utils.signals import jvm_faults

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt

_MANIFEST = "made-from.json"
_SAMPLE = 1000
# Terrier's English tokeniser drops all but ASCII: from this share of other letters on, it does not serve.
_FOREIGN = 0.01
# Scripts that put no spaces between words: every character becomes one.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)


def choose_tokeniser(documents: Iterable[str], queries: Iterable[str]) -> str:
    """``"english"``, Terrier's default, or ``"utf"`` where texts or queries hold letters that the former drops.

    The first thousand of both are looked at.
    """
    foreign = (_foreign_share(itertools.islice(texts, _SAMPLE)) >= _FOREIGN for texts in (documents, queries))
    return "utf" if any(foreign) else "english"


def build_bm25(
    documents: Callable[[], Iterable[Mapping[str, str]]],
    path: Path,
    *,
    tokeniser: str = "english",
    made_from: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> bool:
    """Index ``docno`` and ``text`` with Terrier's defaults (Porter stems, stop words); reuse what fits.

    An index of this function made otherwise, or a broken one, is replaced. ``documents`` gives a fresh iterator at each
    call; ``made_from``, plain JSON values, tells them from others; ``tokeniser`` is what :func:`choose_tokeniser` says.

    Returns:
        Whether it was built now.

    Raises:
        FileExistsError: something else is at ``path``.
        RuntimeError: Terrier indexed fewer documents than there are, or there is no Java.
    """
    start_java()
    import pyterrier as pt

    wanted = {"tokeniser": tokeniser, **(made_from or {})}
    if _made_from(path) == wanted:
        return False
    if path.is_dir() and any(path.iterdir()):
        if not any((path / name).exists() for name in (_MANIFEST, "data.properties")):
            raise FileExistsError(f"{str(path)!r} is there, and no index of BM25: choose another folder")
        shutil.rmtree(path)
    longest = max((len(document["docno"].encode()) for document in documents()), default=1)
    count, failures = 0, []

    def fields() -> Iterator[dict[str, str]]:
        nonlocal count
        try:
            for document in progress_bar(documents(), desc="BM25: indexing", unit="doc", disable=not verbose):
                yield {"docno": document["docno"], "text": _words(document["text"], tokeniser)}
                count += 1
        except Exception as error:  # would end PyTerrier's writer thread without a word, and the index be cut there
            failures.append(error)

    with whole_folder(path) as folder, errors_only():
        pt.terrier.TerrierIndex(folder).indexer(meta={"docno": longest}, tokeniser=tokeniser).index(fields())
        if failures:
            raise failures[0]
        held = _statistic(folder, "Documents")
        if held != count:
            raise RuntimeError(f"Terrier indexed {held} of {count} documents for BM25")
        (folder / _MANIFEST).write_text(json.dumps(wanted), encoding="utf-8")
    return True


def bm25(path: Path, num_results: int) -> pt.Transformer:
    """BM25 (Terrier's k1=1.2, b=0.75) over what :func:`build_bm25` built: ``qid, query`` -> ``docno, score, rank``.

    Where no document has a term (all blank, or stop words), no query finds anything.
    """
    start_java()
    import pyterrier as pt

    tokeniser = (_made_from(path) or {})["tokeniser"]
    if not _statistic(path, "Terms"):
        return nothing()
    index = pt.terrier.TerrierIndex(path)

    def words(row: dict[str, str]) -> str:
        jvm_faults()  # the pipeline may have come to another process
        return _words(row["query"], tokeniser)

    return pt.apply.query(words) >> pt.rewrite.tokenise(tokeniser) >> index.bm25(num_results=num_results)


def nothing() -> pt.Transformer:
    """A retriever that finds nothing: ``qid, query`` -> no rows."""
    import pyterrier as pt

    return pt.apply.generic(_no_rows, required_columns=["qid", "query"])


def _no_rows(topics: pd.DataFrame) -> pd.DataFrame:
    return topics.iloc[:0].assign(docno="", score=0.0, rank=0)


def _made_from(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    found = re.search(rf"^num\.{name}=(\d+)", (path / "data.properties").read_text(encoding="latin-1"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def _words(text: str, tokeniser: str) -> str:
    return _UNSPACED.sub(r" \1 ", text) if tokeniser == "utf" else text


def _foreign_share(texts: Iterable[str]) -> float:
    """Share of letters outside ASCII."""
    letters = foreign = 0
    for text in texts:
        letters += len(text) if text.isascii() else sum(map(str.isalpha, text))
        foreign += 0 if text.isascii() else sum(c.isalpha() and not c.isascii() for c in text)
    return foreign / max(1, letters)
