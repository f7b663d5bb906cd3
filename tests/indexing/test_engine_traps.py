"""What goes wrong in plain Terrier and PISA without a word (DESIGN's traps): ours refuse it or do it right."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_plain_terrier_has_the_traps(tmp_path):
    """Three of them, so that it is seen when a release mends them."""
    ours(tmp_path, "terrier", docs_of(d0={"a": 1}))  # starts Java
    for number, (docs, query, expected) in enumerate((
        (docs_of(d0={"aa": 1, "b" * 61: 3, "mm": 4, "zz": 2}, d1={"mm": 1}), {"mm": 1.0}, []),  # a lost token
        (docs_of(d0={"a": 1.99}), {"a": 1.0}, [1.0]),  # a truncated weight
        (docs_of(d0={"a": 300, "b": 100}), {"a": 4.0, "b": 2.0}, [350.0]),  # scores divided by the largest weight
    )):  # fmt: skip
        pt.terrier.TerrierIndex(tmp_path / str(number)).toks_indexer().index(docs)
        found = pt.terrier.TerrierIndex(tmp_path / str(number)).tf()(frame([query]))
        assert found["score"].tolist() == expected


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
    toks = {"aa": 1, "b" * 60: 3, "\u00e9" * 30: 7, "mm": 4, "\u0120hello": 5, "\u4e2d": 6, "\uff21": 8, "\ue000": 9}
    for engine in ("exact", "terrier"):
        index = open_index(tmp_path / engine, engine, scale=1).indexer().index(docs_of(d0=toks))
        assert {t: search(index, {t: 1.0}) for t in toks} == {t: [("d0", w)] for t, w in toks.items()}


def test_long_docnos_are_kept_whole(tmp_path):
    names = ["d0", "d" * 20 + "one", "d" * 20 + "two", "e" * 9000]
    index = ours(tmp_path, "terrier", docs_of(**{name: {"a": 4 - i} for i, name in enumerate(names)}))
    assert [d for d, _ in search(index, {"a": 1.0})] == names
    assert pt.terrier.TerrierIndex(index.engine_path).tf()(frame([{"a": 1.0}]))["docno"].tolist() == names


def failing(docs):
    yield from docs
    raise OSError("disk gone")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failing_stream_leaves_nothing(tmp_path, engine):
    """Terrier's own indexer would report success for the documents so far."""
    with pytest.raises(OSError, match="disk gone"):
        ours(tmp_path, engine, failing(docs_of(d0={"a": 1}, d1={"a": 2})))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_terrier_with_another_charset(tmp_path):
    """A Java before 18 under LC_ALL=C; forced here by the JVM's option, with a JVM of its own."""
    code = """if True:
        import sys, warnings
        import pandas as pd, pyterrier as pt
        from pyterrier_rescale._utils.java import find_java_home
        home, version = find_java_home()
        pt.java.set_java_home(home)
        pt.java.add_option("-Dfile.encoding=" + ("COMPAT" if version >= 18 else "US-ASCII"))
        from pyterrier_rescale import open_index
        pt.java.init()
        charset = pt.java.autoclass("java.nio.charset.Charset").defaultCharset().name()
        words = ["\\u0120hello", "hello", "caf\\u00e9", "\\u4e2d"]
        docs = [{"docno": "d0", "toks": {w: 100 for w in words}}]
        queries = pd.DataFrame([{"qid": w.encode("unicode_escape").decode(), "query": "", "query_toks": {w: 1.0}}
                                for w in words])
        ours = open_index(sys.argv[1]).indexer().index(docs).retriever()(queries)
        print(charset, len(ours), set(ours["score"]))
    """
    env = {name: value for name, value in os.environ.items() if name != "JAVA_TOOL_OPTIONS"} | {"LC_ALL": "C"}
    command = [sys.executable, "-c", code, str(tmp_path / "ours")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    charset, found, scores = done.stdout.split()[-3:]
    assert "UTF" not in charset and (found, scores) == ("4", "{1.0}")
