from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import engine_data
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, TOLERANCE, exact_ranking, frame, make_docs, make_queries, retrieved

from pyterrier_rescale.encoding.terms import Toks
from pyterrier_rescale.indexing.engines import ENGINES as ENGINE_CLASSES
from pyterrier_rescale.indexing.engines import open_index, storage

DOCS = make_docs(600)

QUERIES = make_queries(15)


@pytest.fixture(scope="module", params=ENGINES)
def index(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / request.param
    built = open_index(path, request.param).indexer().index(iter(DOCS))
    assert built.built
    return open_index(path, request.param)


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_scores_are_dot_products(index, k):
    results = index.retriever(k)(QUERIES)
    assert results.columns.tolist() == ["qid", "query", "query_toks", "docno", "score", "rank"]
    assert results["qid"].drop_duplicates().tolist() == QUERIES["qid"].tolist()
    for qid, query in zip(QUERIES["qid"], QUERIES["query_toks"], strict=True):
        found, expected = retrieved(results, qid), exact_ranking(DOCS, query, k)
        assert len(found) == len(expected)
        # An error of PISA's, half a thousandth of the largest weight, shows most in the lowest scores.
        slack = 1e-3 if index.engine == "pisa" else 1e-11
        scores = [s for _, s in expected]
        tolerance = {"rtol": TOLERANCE[index.engine], "atol": slack * scores[0]}
        np.testing.assert_allclose([s for _, s in found], scores, **tolerance)
        if index.engine != "pisa":
            assert [d for d, _ in found] == [d for d, _ in expected]


def test_statistics(index):
    assert len(index) == len(DOCS) == 600
    stats = index.stats()
    assert stats["postings"] == sum(len(d["toks"]) for d in DOCS)
    assert stats["weight_sum"] == sum(sum(d["toks"].values()) for d in DOCS)
    assert stats["terms"] == len({t for d in DOCS for t in d["toks"]})
    assert stats["size_bytes"] == index.size_bytes > 0
    assert index.scale == 100


def test_queries_that_match_nothing(index):
    queries = frame([{}, {"nosuchterm": 2.0}, {"x1": 0.0}, {"x1": 1.0, "nosuchterm": 50.0}])
    results = index.retriever(5)(queries)
    assert set(results["qid"]) == {"q3"}
    found, expected = retrieved(results, "q3"), exact_ranking(DOCS, {"x1": 1.0}, 5)
    assert [d for d, _ in found] == [d for d, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=TOLERANCE[index.engine])
    nothing = index.retriever(5)(queries.iloc[:2])
    assert len(nothing) == 0
    assert nothing.columns.tolist() == results.columns.tolist()


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1e6 / 3])
def test_weights_of_any_size(index, size):
    """Terrier prints query weights with six decimals, PISA as whole numbers: neither may show."""
    query = {"x1": 3 * size, "x2": 2 * size, "x3": size, "nosuchterm": 0.5}
    found = retrieved(index.retriever(10)(frame([query])), "q0")
    expected = exact_ranking(DOCS, {"x1": 3.0, "x2": 2.0, "x3": 1.0}, 10)
    np.testing.assert_allclose([s / size for _, s in found], [s for _, s in expected], rtol=TOLERANCE[index.engine])


def test_inspection(index):
    retriever = index.retriever()
    assert pt.inspect.transformer_inputs(retriever) == [["qid", "query_toks"]]
    outputs = pt.inspect.transformer_outputs(retriever, ["qid", "query", "query_toks"])
    assert outputs == ["qid", "query", "query_toks", "docno", "score", "rank"]
    assert retriever(QUERIES.head(0)).columns.tolist() == outputs
    clone = pt.inspect.transformer_apply_attributes(retriever, num_results=7)
    assert (clone.num_results, clone.index) == (7, index)
    assert pt.inspect.subtransformers(retriever) == {}
    assert index.indexer(mode="overwrite").index_inputs() == [["docno", "toks"]]
    for stage in (retriever, index.indexer()):
        drawn = stage.schematic()
        assert len(drawn["label"]) <= 20
        assert drawn["help_url"].startswith("https://")
    with pytest.raises(pt.validate.InputValidationError, match="retriever"):
        retriever(pd.DataFrame({"qid": ["1"], "query": ["a"]}))
    with pytest.raises(pt.validate.InputValidationError):
        retriever(QUERIES.assign(docno="d"))


def test_equality_and_repr(index):
    again = open_index(index.path, index.engine)
    assert again == index and hash(again) == hash(index)
    assert again.retriever(5) == index.retriever(5) != index.retriever(6)
    assert len({index.retriever(5), again.retriever(5)}) == 1
    assert repr(index) == f"open_index({str(index.path)!r}, {index.engine!r}, scale=100)"
    assert repr(index.retriever(5)) == f"{index!r}.retriever(num_results=5)"
    assert repr(index.retriever()) == f"{index!r}.retriever()"
    assert pickle.loads(pickle.dumps(index.retriever(5))) == index.retriever(5)


def test_rank_cutoff_is_fused(index):
    cut = (index.retriever(100) % 3).compile()
    assert repr(index.retriever(3)) in repr(cut)
    pd.testing.assert_frame_equal(cut(QUERIES), index.retriever(3)(QUERIES))
    assert index.retriever(2).fuse_rank_cutoff(5) == index.retriever(2)


def test_ties_are_in_docno_order(tmp_path):
    docs = [{"docno": f"d{i}", "toks": {"same": 5, "best": 1 + (i == 33)}} for i in range(100)]
    order = sorted(d["docno"] for d in docs)
    for engine in ("exact", "terrier", "pisa") if engine_data.HAS_PISA else ("exact", "terrier"):
        index = open_index(tmp_path / engine, engine).indexer().index(docs)
        for k in (1, 5, 60, 99, 1000):
            found = retrieved(index.retriever(k)(frame([{"same": 0.7}])), "q0")
            assert [d for d, _ in found] == order[:k]
            first = retrieved(index.retriever(k)(frame([{"same": 0.3, "best": 0.7}])), "q0")
            assert [d for d, _ in first] == ["d33", *(d for d in order if d != "d33")][:k]


@pytest.mark.parametrize("scale", [1, 37.5, 1000])
@pytest.mark.parametrize("engine", ENGINES)
def test_scale_is_kept(tmp_path, engine, scale):
    docs = [{"docno": "a", "toks": {"t": 75, "u": 10}}, {"docno": "b", "toks": {"t": 150}}]
    open_index(tmp_path / "i", engine, scale=scale).indexer().index(docs)
    index = open_index(tmp_path / "i", engine)
    assert index.scale == scale
    found = retrieved(index.retriever()(frame([{"t": 2.0}])), "q0")
    assert found == [("b", pytest.approx(300 / scale)), ("a", pytest.approx(150 / scale))]
    with pytest.raises(ValueError, match=f"was built at scale {scale:g}, got scale=99"):
        open_index(tmp_path / "i", engine, scale=99)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_says_which_engine_it_has(tmp_path, engine):
    built = open_index(tmp_path / "i", engine).indexer().index([{"docno": "a", "toks": {"t": 1}}])
    for path in (tmp_path / "i", str(tmp_path / "i")):
        found = open_index(path)
        assert (found.engine, found) == (engine, built) and len(found.retriever()(frame([{"t": 1.0}]))) == 1
    others = {"exact", "terrier", "seismic"} - {engine}
    for other in others & set(ENGINE_CLASSES):
        with pytest.raises(ValueError, match=f"has engine '{engine}', got engine='{other}'"):
            open_index(tmp_path / "i", other)
    assert open_index(tmp_path / "new").engine == "terrier"
    assert inspect.signature(open_index).parameters["engine"].default == "terrier"


def test_an_engine_that_this_version_does_not_have(tmp_path):
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": "a", "toks": {"t": 1}}])
    manifest = index.path / storage.META_FILE
    manifest.write_text(manifest.read_text().replace('"engine": "exact"', '"engine": "later"'))
    with pytest.raises(ValueError, match="has engine 'later'; this version has .*'exact'"):
        open_index(index.path)


def test_an_open_index_notices_another_scale(tmp_path):
    early = open_index(tmp_path / "i", "exact", scale=10)
    open_index(tmp_path / "i", "exact", scale=20).indexer().index([{"docno": "a", "toks": {"t": 1}}])
    with pytest.raises(ValueError, match="built at scale 20, got scale=10"):
        early.retriever()(frame([{"t": 1.0}]))


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="engine must be one of .*got 'lucene'"):
        open_index(tmp_path / "i", "lucene")
    for scale in (0, -1, float("nan"), float("inf"), "100", True):
        with pytest.raises(ValueError, match="scale must be a finite number > 0"):
            open_index(tmp_path / "i", "exact", scale=scale)
    index = open_index(tmp_path / "i", "exact")
    for bad in (0, -5, 2.5, True, None):
        with pytest.raises(ValueError, match="num_results must be an integer >= 1"):
            index.retriever(bad)
    with pytest.raises(ValueError, match="mode must be one of"):
        index.indexer(mode="replace")
    with pytest.raises(ValueError, match="threads must be 1 with engine 'terrier'"):
        open_index(tmp_path / "i", "terrier").retriever(threads=2)
    open_index(tmp_path / "i", "exact").indexer().index([{"docno": "a", "toks": {"t": 1}}])
    with pytest.raises(ValueError, match="has engine 'exact', got engine='terrier'"):
        open_index(tmp_path / "i", "terrier")


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        ({"toks": {"a": 1}}, "document 1 has no 'docno'"),
        ({"docno": "d1"}, "document 1 has no 'toks'"),
        ({"docno": 7, "toks": {"a": 1}}, "docno of document 1 must be a str, got 7"),
        ({"docno": "", "toks": {"a": 1}}, "docno of document 1"),
        ({"docno": "a\nb", "toks": {"a": 1}}, "line break"),
        ({"docno": "\ud800", "toks": {"a": 1}}, "UTF-8"),
        ({"docno": "x" * 10_001, "toks": {"a": 1}}, "1 to 10000 characters"),
        ({"docno": "d0", "toks": {"a": 1}}, "'d0' occurs twice"),
        ({"docno": "d1", "toks": None}, "toks of document 'd1' must be a dict"),
        ({"docno": "d1", "toks": ["a"]}, "toks of document 'd1' must be a dict"),
        ({"docno": "d1", "toks": {"a": 0}}, "'d1': the weight of a term must be an int from 1 .* got 0 for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": -3}}, "got -3 for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": 0.7}}, "got 0.7 for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": 1.5}}, "got 1.5 for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": None}}, "got None for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": float("nan")}}, "got nan for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": float("inf")}}, "got inf for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": "5"}}, "got '5' for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": 2**24}}, "got 16777216 for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": 2**70}}, "for 'a'"),
        ({"docno": "d1", "toks": {"b": 2, "a": [1]}}, r"got \[1\] for 'a'"),
        ({"docno": "d1", "toks": {"a": True}}, "got True for 'a'"),
        ({"docno": "d1", "toks": {5: 1}}, "'d1': a term must be a str, got 5"),
        ({"docno": "d1", "toks": {"\udc00": 1}}, "cannot be written as UTF-8"),
        ("d1", "document 1 must be a dict with docno and toks, got str"),
    ],
)
def test_bad_documents(tmp_path, doc, message):
    index = open_index(tmp_path / "i", "exact")
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        index.indexer().index([{"docno": "d0", "toks": {"a": 1}}, doc, {"docno": "d2", "toks": {"a": 1}}])
    assert not index.built
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        index.retriever()(frame([{"a": 1.0}]))


def test_numbers_of_other_types_are_taken(tmp_path):
    toks = {"a": np.int64(3), "b": 4.0, "c": np.float32(5), "d": 6}
    index = open_index(tmp_path / "i", "exact").indexer().index(pd.DataFrame([{"docno": "d0", "toks": toks}]))
    query = {t: w for t, w in zip("abcd", (1.0, np.float32(10.0), 100, np.int64(1000)), strict=True)}
    assert retrieved(index.retriever()(frame([query])), "q0") == [("d0", pytest.approx(65.43))]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_documents(tmp_path, engine):
    with pytest.raises(ValueError, match="there are no documents to index"):
        open_index(tmp_path / "i", engine).indexer().index([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_documents_without_terms_only(tmp_path, engine):
    index, docs = open_index(tmp_path / "i", engine), [{"docno": "a", "toks": {}}, {"docno": "b", "toks": {}}]
    if engine == "exact":
        assert len(index.indexer().index(docs)) == 2
        assert len(index.retriever()(frame([{"a": 1.0}]))) == 0
    else:
        with pytest.raises(ValueError, match="no document has any term"):
            index.indexer().index(docs)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("toks", "error"),
    [
        (None, TypeError),
        (float("nan"), TypeError),
        ("a b", TypeError),
        ({"a": None}, ValueError),
        ({"a": float("nan")}, ValueError),
        ({"a": float("inf")}, ValueError),
        ({"a": -0.5}, ValueError),
        ({"a": "1"}, ValueError),
        ({1: 1.0}, TypeError),
    ],
)
def test_bad_queries(tmp_path, toks, error):
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": "d0", "toks": {"a": 1}}])
    with pytest.raises(error, match="query 'q1'"):
        index.retriever()(frame([{"a": 1.0}, toks]))


@pytest.mark.parametrize("engine", ENGINES)
def test_vocabulary_and_scale_guards(tmp_path, engine):
    docs = [{"docno": f"d{i}", "toks": Toks({"a": 200, "b": 100}.items(), "vocab1:100")} for i in range(3)]
    with pytest.raises(ValueError, match="'d0' was encoded at scale 100, the index is at scale 1"):
        open_index(tmp_path / "i", engine, scale=1).indexer().index(docs)
    other = [*docs, {"docno": "d3", "toks": Toks({"a": 200}.items(), "vocab2:100")}]
    with pytest.raises(ValueError, match="'d3' was encoded with another vocabulary"):
        open_index(tmp_path / "i", engine).indexer().index(other)
    index = open_index(tmp_path / "i", engine).indexer().index(docs)
    assert index.fingerprint == open_index(tmp_path / "i", engine).stats()["fingerprint"] == "vocab1"
    retriever = index.retriever(1)
    assert retrieved(retriever(frame([Toks({"a": 1.5}.items(), "vocab1:1")])), "q0") == [("d0", pytest.approx(3))]
    with pytest.raises(ValueError, match="another vocabulary .vocab2. than the documents"):
        retriever(frame([Toks({"a": 1.5}.items(), "vocab2:1")]))
    with pytest.raises(ValueError, match="encoded at scale 100, but the retriever takes unscaled"):
        retriever(frame([Toks({"a": 150.0}.items(), "vocab1:100")]))
    with pytest.raises(ValueError, match="must look like"):
        retriever(frame([Toks({"a": 150.0}.items(), "vocab1")]))


def test_warning_for_weights_that_look_scaled(tmp_path, recwarn):
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": "d0", "toks": {"a": 100, "b": 200}}])
    index.retriever()(frame([{"a": 1.0, "b": 12.0}]))
    index.retriever()(frame([{"a": 11.5}]))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="look scaled"):
        index.retriever()(frame([{"a": 150.0, "b": 10.0}, {}]))


def test_large_weights(tmp_path):
    docs = [{"docno": "a", "toks": {"t": 2**24 - 1}}, {"docno": "b", "toks": {"t": 70_000, "u": 1}}]
    index = open_index(tmp_path / "i", "exact", scale=1).indexer().index(docs)
    assert retrieved(index.retriever()(frame([{"t": 1.0}])), "q0") == [("a", 2**24 - 1), ("b", 70_000)]


def test_top_candidates_with_every_distribution():
    """The estimated threshold must never lose a document of the top k."""
    from pyterrier_rescale.indexing.engines.exact import top_candidates

    rng = np.random.default_rng(3)
    n, k = 5000, 20
    cases = {
        "uniform": rng.random(n),
        "sorted": np.sort(rng.random(n)),
        "few": np.where(rng.random(n) < 0.002, rng.random(n), 0),
        "ties": rng.integers(0, 3, n).astype(float),
        "high ones hidden from the sample": np.where(np.arange(n) % 16 == 0, 0.0, rng.random(n)),
        "high ones all in the sample": np.where(np.arange(n) % 16 == 0, 1 + rng.random(n), rng.random(n)),
        "none": np.zeros(n),
    }
    for name, scores in cases.items():
        kth = np.sort(scores)[::-1][k - 1]
        expected = np.flatnonzero((scores >= kth) & (scores > 0))
        assert sorted(top_candidates(scores, k)) == expected.tolist(), name


def test_damaged_indexes_are_not_served(index, tmp_path):
    import shutil

    for name in index._checked_meta(None)["files"]:
        copy = tmp_path / "copy"
        shutil.copytree(index.path, copy)
        size = (copy / name).stat().st_size
        with open(copy / name, "r+b") as file:
            file.truncate(size // 2)
        damaged = open_index(copy, index.engine)
        assert not damaged.built
        with pytest.raises(ValueError, match=f"is damaged: {name} has {size // 2} bytes instead of {size}.*overwrite"):
            damaged.retriever()(QUERIES)
        (copy / name).unlink()
        with pytest.raises(ValueError, match=f"is damaged: {name} is missing"):
            damaged.stats()
        assert damaged.indexer(mode="overwrite").index(DOCS[:3]).built
        shutil.rmtree(copy)
    shutil.copytree(index.path, tmp_path / "moved")
    assert len(open_index(tmp_path / "moved", index.engine).retriever(3)(QUERIES)) == 45


def test_plain_pyterrier_reads_the_terrier_index(tmp_path):
    open_index(tmp_path / "i", "terrier").indexer().index(DOCS)
    plain = pt.terrier.TerrierIndex(tmp_path / "i").tf(num_results=10)(QUERIES)
    ours = open_index(tmp_path / "i").retriever(10)(QUERIES)
    largest = QUERIES["query_toks"].map(lambda q: max(q.values()))
    for qid, w in zip(QUERIES["qid"], largest, strict=True):
        scores = plain[plain["qid"] == qid]["score"] * w / 100
        # plain PyTerrier prints the query's weights with six decimals
        np.testing.assert_allclose(scores, [s for _, s in retrieved(ours, qid)], rtol=1e-5)


def test_missing_pisa(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyterrier_pisa", None)
    index = open_index(tmp_path / "i", "pisa")
    with pytest.raises(ImportError, match=r"pip install pyterrier-rescale\[pisa\]"):
        index.indexer().index(DOCS)
    assert list(tmp_path.iterdir()) == []


def test_exact_needs_no_java(tmp_path):
    code = (
        "import sys, pandas as pd; from pyterrier_rescale.indexing.engines import open_index\n"
        f"index = open_index({str(tmp_path / 'i')!r}, 'exact')\n"
        "index.indexer().index([{'docno': 'd', 'toks': {'a': 100}}])\n"
        "print(index.retriever()(pd.DataFrame([{'qid': '1', 'query_toks': {'a': 2.0}}])).score.tolist())\n"
        "print('jnius' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[2.0]", "False False"], done.stderr
