"""What goes wrong in plain Terrier and PISA without a word, and that our engines refuse it or do it right.

Every test shows the trap in the plain engine first, so that it tells when a release mends it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import engine_data
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import frame, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale._utils.java import start_java
from pyterrier_rescale.encoding.terms import Toks

pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")
needs_pisa = pytest.mark.skipif(not engine_data.HAS_PISA, reason="no pyterrier-pisa")


def docs_of(**toks: dict) -> list[dict]:
    return [{"docno": docno, "toks": t} for docno, t in toks.items()]


class Plain:
    """The documented recipes of PyTerrier and pyterrier-pisa."""

    def __init__(self, engine: str, path):
        self.engine, self.path = engine, str(path / "plain")

    def index(self, docs, **options):
        if self.engine == "terrier":
            start_java()
            pt.terrier.TerrierIndex(self.path).toks_indexer(**options).index(docs)
            self.built = pt.terrier.TerrierIndex(self.path)
        else:
            import pyterrier_pisa

            self.built = pyterrier_pisa.PisaIndex(self.path, stemmer="none", stops="none")
            self.built.toks_indexer(**options).index(docs)
        return self

    def search(self, toks: dict, k: int = 10) -> list[tuple[str, float]]:
        retriever = (self.built.tf if self.engine == "terrier" else self.built.quantized)(num_results=k)
        results = retriever(frame([toks]))
        return list(zip(results["docno"], results["score"], strict=True))


@pytest.fixture
def terrier(tmp_path):
    return Plain("terrier", tmp_path)


@pytest.fixture
def pisa(tmp_path):
    pytest.importorskip("pyterrier_pisa")
    return Plain("pisa", tmp_path)


def ours(tmp_path, engine, docs, scale=100):
    return open_index(tmp_path / "ours", engine, scale=scale).indexer().index(docs)


def search(index, toks, k=10):
    return retrieved(index.retriever(k)(frame([toks])), "q0")


def refuses(tmp_path, engine, docs, message, error=(ValueError, TypeError, KeyError)):
    with pytest.raises(error, match=message):
        ours(tmp_path, engine, docs)
    assert [path.name for path in tmp_path.iterdir() if "ours" in path.name] == []


# Tokens


def test_terrier_long_token_loses_other_tokens(terrier, tmp_path):
    docs = docs_of(d0={"aa": 1, "b" * 61: 3, "mm": 4, "zz": 2}, d1={"mm": 1})
    terrier.index(docs)
    assert terrier.search({"aa": 1.0}) == [("d0", 1.0)]
    assert terrier.search({"mm": 1.0}) == []
    refuses(tmp_path, "terrier", docs, r"1 to 60 UTF-8 bytes, got 'b{61}' \(61 bytes\).*terms='safe'")
    refuses(tmp_path, "terrier", docs_of(d0={"\u0120" + "\u00e9" * 30: 1}), r"\(62 bytes\)")
    index = ours(tmp_path, "terrier", docs_of(d0={"aa": 1, "b" * 60: 3, "\u00e9" * 30: 7, "mm": 4, "zz": 2}))
    assert [search(index, {t: 100.0})[0][1] for t in ("aa", "b" * 60, "\u00e9" * 30, "mm", "zz")] == [1, 3, 7, 4, 2]


def test_terrier_empty_token_ends_in_a_buffer_error(terrier, tmp_path):
    docs = docs_of(d0={"": 1, "a": 2})
    with pytest.raises(Exception, match="BufferUnderflow"):
        terrier.index(docs)
    refuses(tmp_path, "terrier", docs, r"1 to 60 UTF-8 bytes, got '' \(0 bytes\)")


def test_terrier_astral_tokens_go_unmatched(terrier, tmp_path):
    toks = {chr(0x1F600 + i): 1 + i for i in range(30)} | {chr(0xFF21 + i): 100 + i for i in range(30)}
    terrier.index(docs_of(d0=toks))
    assert [t for t in toks if not terrier.search({t: 1.0})] != []
    refuses(tmp_path, "terrier", docs_of(d0=toks), "characters above U\\+FFFF")
    index = ours(tmp_path, "terrier", docs_of(d0={t: w for t, w in toks.items() if t <= "\uffff"}))
    assert all(search(index, {t: 100.0}) == [("d0", toks[t])] for t in toks if t <= "\uffff")


def test_terrier_lone_surrogate_cannot_be_asked_for(terrier, tmp_path):
    docs = docs_of(d0={"\ud800": 1, "a": 4})
    terrier.index(docs)
    with pytest.raises(UnicodeEncodeError):
        terrier.search({"\ud800": 1.0})
    refuses(tmp_path, "terrier", docs, "cannot be written as UTF-8")


def test_pisa_lowers_the_case_of_queries_only(pisa, tmp_path):
    docs = docs_of(d0={"Apple": 3, "Zed": 1}, d1={"apple": 5})
    pisa.index(docs)
    assert pisa.search({"Apple": 1.0})[0][0] == "d1"  # the wrong document
    assert pisa.search({"Zed": 1.0}) == []
    refuses(tmp_path, "pisa", docs, "upper case letters.*got 'Apple'|got 'Zed'")
    index = ours(tmp_path, "pisa", docs_of(d0={"apple": 3}))
    assert search(index, {"Apple": 1.0}) == []
    assert search(index, {"Apple": 1.0, "apple": 100.0}) == [("d0", pytest.approx(3))]


def test_pisa_newline_in_a_token_gives_wrong_postings(pisa, tmp_path):
    docs = docs_of(d0={"a\nb": 1, "c": 2, "z": 4}, d1={"a": 5})
    pisa.index(docs, scale=1.0)
    assert pisa.search({"c": 0.01}) != [("d0", 2.0)]
    refuses(tmp_path, "pisa", docs, "white space")
    for engine in ("exact", "terrier"):
        assert search(open_index(tmp_path / engine, engine).indexer().index(docs), {"c": 100.0}) == [("d0", 2.0)]


def test_pisa_token_with_nul_goes_unmatched(pisa, tmp_path):
    docs = docs_of(d0={"a\0b": 1, "c": 2})
    pisa.index(docs)
    assert pisa.search({"a\0b": 1.0}) == []
    refuses(tmp_path, "pisa", docs, "NUL")


# Weights of documents


def test_terrier_zero_weights_lose_the_inverted_index(terrier, tmp_path):
    toks = [{f"t{j}": (i * j) % 4 for j in range(i % 5, 30, 2)} for i in range(300)]
    docs = [{"docno": f"d{i}", "toks": t} for i, t in enumerate(toks)]
    terrier.index(docs)  # reports success
    assert len(terrier.built) == 300
    with pytest.raises(Exception, match="NullPointerException"):
        terrier.search({"t1": 1.0})
    refuses(tmp_path, "terrier", docs, "must be an int from 1 .* got 0 for")


@pytest.mark.parametrize("weight", [0, 0.9, -4])
def test_terrier_stores_weights_below_one_as_one(terrier, tmp_path, weight):
    docs = docs_of(d0={"a": 3, "b": 1}, d1={"a": weight, "b": 1}, d2={"a": 2, "b": 5})
    terrier.index(docs)
    assert ("d1", 1.0) in terrier.search({"a": 1.0})
    refuses(tmp_path, "terrier", docs, f"'d1'.* got {weight} for 'a'")


def test_terrier_truncates_weights(terrier, tmp_path):
    terrier.index(docs_of(d0={"a": 1.99}))
    assert terrier.search({"a": 1.0}) == [("d0", 1.0)]
    refuses(tmp_path, "terrier", docs_of(d0={"a": 1.99}), "got 1.99 for 'a'.*doc_encoder")


def test_pisa_truncates_weights(pisa, tmp_path):
    pisa.index(docs_of(d0={"a": 0.019}))
    assert pisa.search({"a": 1.0}) == [("d0", 100.0)]  # .019 is taken for .01
    index = ours(tmp_path, "pisa", docs_of(d0={"a": round(0.019 * 100)}))
    assert search(index, {"a": 1.0}) == [("d0", pytest.approx(0.02))]


def test_documents_scaled_twice(terrier, tmp_path):
    """A document encoder at scale 100 in front of an index that thinks in other units: nobody notices."""
    toks = {"a": 150}
    assert terrier.index(docs_of(d0={t: w * 100 for t, w in toks.items()})).search({"a": 1.0}) == [("d0", 15000.0)]
    stamped = docs_of(d0=Toks(toks.items(), "v:100"))
    with pytest.raises(ValueError, match="encoded at scale 100, the index is at scale 1"):
        ours(tmp_path, "terrier", stamped, scale=1)


# Documents


def failing(docs):
    yield from docs
    raise OSError("disk gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("docs", "message", "error"),
    [
        (failing(docs_of(d0={"a": 1}, d1={"a": 2})), "disk gone", OSError),
        (docs_of(d0={"a": 1}, d1={"a": None}, d2={"a": 2}), "got None for 'a'", ValueError),
        (docs_of(d0={"a": 1}, d1={"a": float("nan")}, d2={"a": 2}), "got nan for 'a'", ValueError),
        (docs_of(d0={"a": 1}, d1=None, d2={"a": 2}), "toks of document 'd1' must be a dict", TypeError),
        ([{"docno": "d0", "toks": {"a": 1}}, {"docno": "d1"}, {"docno": "d2", "toks": {}}], "no 'toks'", KeyError),
    ],
    ids=["failing stream", "None weight", "NaN weight", "None toks", "no toks"],
)
def test_terrier_returns_half_an_index_as_success(terrier, tmp_path, docs, message, error):
    docs = docs if isinstance(docs, list) else list(docs.gi_frame.f_locals["docs"])
    stream = failing(docs) if error is OSError else docs
    terrier.index(stream)  # reports success
    assert len(terrier.built) < 3
    stream = failing(docs) if error is OSError else docs
    refuses(tmp_path, "terrier", stream, message, error)


def test_terrier_crops_docnos(terrier, tmp_path):
    docs = docs_of(**{"d0": {"a": 3}, "d" * 20 + "one": {"a": 2}, "d" * 20 + "two": {"a": 1}, "e" * 9000: {"b": 1}})
    terrier.index(docs)
    found = [d for d, _ in terrier.search({"a": 1.0})]
    assert found[0] == "d0" and found[1] == found[2]
    index = ours(tmp_path, "terrier", docs)
    assert [d for d, _ in search(index, {"a": 1.0})] == ["d0", "d" * 20 + "one", "d" * 20 + "two"]
    assert search(index, {"b": 1.0})[0][0] == "e" * 9000
    assert pt.terrier.TerrierIndex(index.path).tf()(frame([{"b": 1.0}]))["docno"][0] == "e" * 9000


@pytest.mark.parametrize("engine", ["terrier", pytest.param("pisa", marks=needs_pisa)])
def test_duplicate_docnos_are_accepted(tmp_path, engine):
    docs = [{"docno": "d0", "toks": {"a": 1}}, {"docno": "d0", "toks": {"a": 2}}]
    assert [d for d, _ in Plain(engine, tmp_path).index(docs).search({"a": 1.0})] == ["d0", "d0"]
    refuses(tmp_path, engine, docs, "'d0' occurs twice")


def test_pisa_newline_in_a_docno_shifts_all_docnos(pisa, tmp_path):
    docs = docs_of(**{"d\n0": {"a": 1}, "d1": {"a": 2}, "d2": {"a": 3}})
    assert pisa.index(docs).search({"a": 1.0})[0][0] == "d1"  # d2 has the largest weight
    refuses(tmp_path, "pisa", docs, "no line break")


@pytest.mark.parametrize("docno", [7, None])
def test_terrier_docnos_of_other_types_end_in_java_errors(terrier, tmp_path, docno):
    docs = [{"docno": "d0", "toks": {"a": 1}}, {"docno": docno, "toks": {"a": 1}}]
    with pytest.raises(Exception, match="ClassCastException|NullPointerException"):
        terrier.index(docs)
    refuses(tmp_path, "terrier", docs, f"docno of document 1 must be a str, got {docno}")


def test_terrier_empty_stream_ends_in_a_java_error(terrier, tmp_path):
    with pytest.raises(Exception, match="NullPointerException"):
        terrier.index([])
    refuses(tmp_path, "terrier", [], "there are no documents to index")


def test_pisa_empty_stream_ends_in_an_unbound_variable(pisa, tmp_path):
    with pytest.raises(UnboundLocalError):
        pisa.index([])
    refuses(tmp_path, "pisa", [], "there are no documents to index")


@needs_pisa
def test_pisa_dies_of_documents_without_terms(tmp_path):
    code = (
        "import sys, pandas as pd, pyterrier_pisa\n"
        "index = pyterrier_pisa.PisaIndex(sys.argv[1], stemmer='none', stops='none')\n"
        "index.toks_indexer().index([{'docno': 'd0', 'toks': {}}])\n"
        "index.quantized()(pd.DataFrame([{'qid': '1', 'query_toks': {'a': 1.0}}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "plain")], capture_output=True)
    assert done.returncode < 0  # a signal, no exception
    refuses(tmp_path, "pisa", docs_of(d0={}, d1={}), "no document has any term")


# Queries and scores


def test_terrier_divides_scores_by_the_largest_query_weight(terrier, tmp_path):
    docs = docs_of(d0={"a": 300, "b": 100})
    assert terrier.index(docs).search({"a": 4.0, "b": 2.0}) == [("d0", 350.0)]
    index = ours(tmp_path, "terrier", docs)
    assert search(index, {"a": 4.0, "b": 2.0}) == [("d0", pytest.approx(14.0))]
    assert search(index, {"a": 4.0, "b": 2.0, "unknown": 9.0}) == [("d0", pytest.approx(14.0))]


def test_pisa_scales_both_sides_by_100(pisa, tmp_path):
    assert pisa.index(docs_of(d0={"a": 3})).search({"a": 4.0}) == [("d0", 120000.0)]
    assert search(ours(tmp_path, "pisa", docs_of(d0={"a": 300})), {"a": 4.0}) == [("d0", pytest.approx(12.0))]


def test_terrier_small_query_weights_give_nan(terrier, tmp_path):
    docs = docs_of(d0={"a": 300, "b": 100}, d1={"a": 100, "b": 500})
    scores = [s for _, s in terrier.index(docs).search({"a": 1e-7, "b": 1e-7})]
    assert scores and all(s != s for s in scores)
    found = search(ours(tmp_path, "terrier", docs), {"a": 1e-7, "b": 1e-7})
    assert found == [("d1", pytest.approx(6e-7)), ("d0", pytest.approx(4e-7))]


def test_terrier_loses_query_weights_beyond_six_decimals(terrier, tmp_path):
    docs = docs_of(d0={"a": 1, "b": 1}, d1={"a": 500_000, "b": 1})
    assert terrier.index(docs).search({"a": 4e-7, "b": 0.001}) == [("d0", 1.0), ("d1", 1.0)]
    found = search(ours(tmp_path, "terrier", docs), {"a": 4e-7, "b": 0.001})
    assert found == [("d1", pytest.approx(0.201 / 100)), ("d0", pytest.approx(0.0010004 / 100))]


def test_pisa_drops_small_query_weights(pisa, tmp_path):
    docs = docs_of(d0={"a": 100, "b": 200})
    assert pisa.index(docs).search({"a": 0.009, "b": 0.008}) == []
    found = search(ours(tmp_path, "pisa", docs), {"a": 0.009, "b": 0.008})
    assert found == [("d0", pytest.approx(0.025, rel=1e-3))]


def test_terrier_zero_query_weight_gives_nan(terrier, tmp_path):
    docs = docs_of(d0={"a": 3}, d1={"a": 1})
    scores = [s for _, s in terrier.index(docs).search({"a": 0.0})]
    assert scores and all(s != s for s in scores)
    assert search(ours(tmp_path, "terrier", docs), {"a": 0.0}) == []


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_terrier_odd_query_weights_end_in_parser_errors(terrier, tmp_path, weight):
    docs = docs_of(d0={"a": 3})
    with pytest.raises(Exception, match="NumberFormatException|QueryParserException"):
        terrier.index(docs).search({"a": weight, "b": 1.0})
    with pytest.raises(ValueError, match=f"query 'q0': a term's weight must be a finite number >= 0, got {weight}"):
        search(ours(tmp_path, "terrier", docs), {"a": weight})


def test_terrier_ignores_query_toks_when_it_ranks_again(terrier, tmp_path):
    docs = docs_of(d0={"a": 300, "b": 1}, d1={"a": 100, "b": 900})
    terrier.index(docs)
    candidates = pd.DataFrame({"qid": "1", "query": "b", "query_toks": [{"a": 1.0}] * 2, "docno": ["d0", "d1"]})
    again = terrier.built.tf()(candidates)
    assert again.sort_values("score")["docno"].tolist() == ["d0", "d1"]  # ranked by the words: query_toks say d0
    with pytest.raises(pt.validate.InputValidationError, match="docno"):
        ours(tmp_path, "terrier", docs).retriever()(candidates)


@pytest.mark.parametrize("engine", ["terrier", pytest.param("pisa", marks=needs_pisa)])
def test_ties_follow_the_order_of_indexing(tmp_path, engine):
    docs = docs_of(**{f"d{i}": {"a": 3} for i in (5, 3, 1, 2)})
    assert [d for d, _ in Plain(engine, tmp_path).index(docs).search({"a": 1.0}, k=2)] == ["d5", "d3"]
    assert [d for d, _ in search(ours(tmp_path, engine, docs), {"a": 1.0}, k=2)] == ["d1", "d2"]


def test_another_models_queries_match_by_accident(terrier, tmp_path):
    docs = docs_of(d0=Toks({"x17": 300}.items(), "model1:100"))
    query = Toks({"x17": 1.0}.items(), "model2:1")
    assert terrier.index(docs).search(query) == [("d0", 300.0)]
    with pytest.raises(ValueError, match="another vocabulary .model2. than the documents of .*model1"):
        search(ours(tmp_path, "terrier", docs), query)


# The machine


def test_terrier_serves_a_cut_index(terrier, tmp_path):
    docs = [{"docno": f"d{i}", "toks": {"a": 1, f"b{i}": 2}} for i in range(3000)]
    terrier.index(docs)
    meta = os.path.join(terrier.path, "data.meta.zdata")
    with open(meta, "r+b") as file:
        file.truncate(os.path.getsize(meta) // 2)
    plain = pt.terrier.TerrierIndex(terrier.path).tf(num_results=5)(frame([{"a": 1.0}]))
    index = ours(tmp_path, "terrier", docs)
    with open(index.path / "data.meta.zdata", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="is damaged: data.meta.zdata has 100 bytes instead of"):
        search(open_index(index.path), {"a": 1.0})
    assert plain["docno"].tolist() == [f"d{i}" for i in range(5)]


def test_terrier_with_another_charset_matches_no_byte_level_token(tmp_path):
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
        pt.terrier.TerrierIndex(sys.argv[1]).toks_indexer().index(docs)
        plain = pt.terrier.TerrierIndex(sys.argv[1]).tf()(queries)
        ours = open_index(sys.argv[2]).indexer().index(docs).retriever()(queries)
        print(charset, len(plain), len(ours), set(ours["score"]))
    """
    env = {**os.environ, "LC_ALL": "C"}
    command = [sys.executable, "-c", code, str(tmp_path / "plain"), str(tmp_path / "ours")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    charset, plain, found, scores = done.stdout.split()[-4:]
    assert "UTF" not in charset
    assert (plain, found, scores) == ("1", "4", "{1.0}")  # plain: of four words only `hello`


def test_plain_warnings_are_not_ours(tmp_path):
    """Empty queries: plain PyTerrier warns once for each; ours answers with no rows."""
    index = ours(tmp_path, "terrier", docs_of(d0={"a": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert search(index, {}) == []
