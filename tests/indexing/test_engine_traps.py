"""What goes wrong in plain Terrier and PISA without a word (DESIGN's traps): ours refuse it or do it right."""

from __future__ import annotations

import engine_data
import pyterrier as pt
import pytest
from engine_data import ENGINES, frame, retrieved

from pyterrier_rescale import open_index

pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")
needs_pisa = pytest.mark.skipif(not engine_data.HAS_PISA, reason="no pyterrier-pisa")


def docs_of(**toks: dict) -> list[dict]:
    return [{"docno": docno, "toks": t} for docno, t in toks.items()]


def ours(tmp_path, engine, docs, scale=100):
    return open_index(tmp_path / "ours", engine, scale=scale).indexer().index(docs)


def search(index, toks, k=10):
    return retrieved(index.retriever(k)(frame([toks])), "q0")


REFUSED = [
    ("terrier", {"b" * 61: 3}), ("terrier", {"\u0120" + "\u00e9" * 30: 1}), ("terrier", {"": 1}),
    ("terrier", {"\U0001f600": 1}), ("terrier", {"a\0b": 1}),
    ("pisa", {"Apple": 3}), ("pisa", {"a\nb": 1}), ("pisa", {"a\0b": 1}), ("pisa", {"": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "toks"), REFUSED)
def test_terms_that_an_engine_would_damage_are_refused(tmp_path, engine, toks):
    if engine == "pisa":
        pytest.importorskip("pyterrier_pisa")
    with pytest.raises(ValueError, match="document 'd0': engine .* terms.*terms='safe'"):
        ours(tmp_path, engine, docs_of(d0={"fine": 1, **toks}))
    raw = open_index(tmp_path / "raw", "exact").indexer().index(docs_of(d0={"fine": 1, **toks}))
    with pytest.raises(ValueError, match="terms='safe'"):
        ours(tmp_path, engine, raw)
    assert not (tmp_path / "ours").exists()


def test_terms_at_the_edge_are_found(tmp_path):
    docno = "\u00e9" * 9000
    toks = {"aa": 1, "b" * 60: 3, "\u00e9" * 30: 7, "mm": 4, "\u0120hello": 5, "\u4e2d": 6, "\uff21": 8, "\ue000": 9}
    for engine in ("exact", "terrier"):
        index = open_index(tmp_path / engine, engine, scale=1).indexer().index(docs_of(**{docno: toks}))
        assert {t: search(index, {t: 1.0}) for t in toks} == {t: [(docno, w)] for t, w in toks.items()}
    assert pt.terrier.TerrierIndex(index.engine_path).tf()(frame([{"aa": 1.0}]))["docno"].tolist() == [docno]


def failing(docs):
    yield from docs
    raise OSError("disk gone")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failing_stream_leaves_nothing(tmp_path, engine):
    """Terrier's own indexer would report success for the documents so far."""
    with pytest.raises(OSError, match="disk gone"):
        ours(tmp_path, engine, failing(docs_of(d0={"a": 1}, d1={"a": 2})))
    assert not list(tmp_path.iterdir())
