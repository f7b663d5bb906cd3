"""One contract for all engines: dot products, ties, scales, statistics, conversion, appending, refusals."""

from __future__ import annotations

import pickle

import engine_data
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, TOLERANCE, exact_ranking, frame, make_docs, make_queries, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale.encoding.terms import Toks

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
    assert index.retriever(100).fuse_rank_cutoff(3) == index.retriever(3) == index.retriever(3).fuse_rank_cutoff(5)
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
    with pytest.raises(ValueError, match=f"scale {scale:.1f}, got scale=99"):
        open_index(tmp_path / "i", engine, scale=99).retriever()(frame([{"t": 2.0}]))
    again = open_index(tmp_path / "i", engine, scale=99).indexer(mode="overwrite").index(docs)
    found = retrieved(again.retriever()(frame([{"t": 99.0}])), "q0")
    assert found == [("b", pytest.approx(150)), ("a", pytest.approx(75))]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_says_which_engine_it_has(tmp_path, engine):
    query = frame([{"t": 1.0}])
    built = open_index(tmp_path / "i", engine).indexer().index([{"docno": "a", "toks": {"t": 1}}])
    for path in (tmp_path / "i", str(tmp_path / "i")):
        found = open_index(path)
        assert (found.engine, found) == (engine, built) and len(found.retriever()(query)) == 1
    other = "exact" if engine == "terrier" else "terrier"
    with pytest.raises(ValueError, match=f"engine '{engine}', got engine='{other}'"):
        open_index(tmp_path / "i", other).retriever()(query)
    assert len(open_index(tmp_path / "i", other).indexer(mode="overwrite").index(built).retriever()(query)) == 1
    assert open_index(tmp_path / "i").engine == other
    assert open_index(tmp_path / "new").engine == "terrier"


BAD_ARGUMENTS = [
    (lambda path: open_index(path, "lucene"), ValueError, "engine"),
    (lambda path: open_index(path, "exact", scale=0), ValueError, "scale"),
    (lambda path: open_index(path, "exact").retriever(0), ValueError, "num_results"),
    (lambda path: open_index(path, "terrier").retriever(threads=2), ValueError, "threads"),
    (lambda path: open_index(path, "exact").retriever(query_cut=2), TypeError, "query_cut"),
    (lambda path: open_index(path, "exact").retriever(k=2), TypeError, "'k'"),
    (lambda path: open_index(path, "exact").indexer(n_postings=2), TypeError, "n_postings"),
    (lambda path: open_index(path, "exact").indexer(mode="replace"), ValueError, "mode"),
    (lambda path: open_index(path, "exact").indexer(bits=1), ValueError, "bits"),
    (lambda path: open_index(path, "exact").indexer(bits=8, mode="append"), ValueError, "bits"),
    (lambda path: open_index(path, "exact").retriever()(QUERIES), FileNotFoundError, "not there"),
    (lambda path: open_index(path, "exact").stats(), FileNotFoundError, "not there"),
]


@pytest.mark.parametrize(("call", "error", "named"), BAD_ARGUMENTS)
def test_bad_arguments(tmp_path, call, error, named):
    with pytest.raises(error, match=named):
        call(tmp_path / "i")
    assert not list(tmp_path.iterdir())


BAD_DOCUMENTS = [
    ({"toks": {"a": 1}}, KeyError, "docno"),
    ({"docno": "d1"}, KeyError, "d1.*toks"),
    ({"docno": 7, "toks": {"a": 1}}, ValueError, "docno of document 1"),
    ({"docno": "", "toks": {"a": 1}}, ValueError, "docno of document 1"),
    ({"docno": "a b", "toks": {"a": 1}}, ValueError, "docno of document 1"),
    ({"docno": "a\u2028b", "toks": {"a": 1}}, ValueError, "docno of document 1"),
    ({"docno": "\ud800", "toks": {"a": 1}}, ValueError, "docno of document 1"),
    ({"docno": "d0", "toks": {"a": 1}}, ValueError, "d0.* twice"),
    ({"docno": "d1", "toks": None}, TypeError, "toks of document 'd1'"),
    *(
        ({"docno": "d1", "toks": {"b": 2, "a": weight}}, ValueError, "'d1'.* for 'a'")
        for weight in (0, -3, 0.7, 1.5, None, float("nan"), float("inf"), "5", 2**23, 2**70, [1])
    ),
    ({"docno": "d1", "toks": {5: 1}}, ValueError, "'d1'.*5"),
    ({"docno": "d1", "toks": {"\udc00": 1}}, ValueError, "'d1'.*UTF-8"),
    ("d1", TypeError, "document 1 must be a dict"),
    (None, ValueError, "at least one document"),
]


@pytest.mark.parametrize(("doc", "error", "named"), BAD_DOCUMENTS)
def test_bad_documents(tmp_path, doc, error, named):
    """The message names the document; nothing is left, neither on a fresh path nor beside a former index."""
    docs = [] if doc is None else [{"docno": "d0", "toks": {"a": 1}}, doc, {"docno": "d2", "toks": {"a": 1}}]
    index = open_index(tmp_path / "i", "exact")
    with pytest.raises(error, match=named):
        index.indexer().index(docs)
    assert not index.built and list(tmp_path.iterdir()) == []
    before = index.indexer().index(DOCS[:5]).retriever()(QUERIES)
    with pytest.raises(error, match=named):
        index.indexer(mode="overwrite").index(docs)
    pd.testing.assert_frame_equal(index.retriever()(QUERIES), before)


def test_numbers_of_other_types_are_taken(tmp_path):
    toks = {"a": np.int64(3), "b": 4.0, "c": np.float32(5), "d": 6}
    index = open_index(tmp_path / "i", "exact").indexer().index(pd.DataFrame([{"docno": "d0", "toks": toks}]))
    query = {t: w for t, w in zip("abcd", (1.0, np.float32(10.0), 100, np.int64(1000)), strict=True)}
    assert retrieved(index.retriever()(frame([query])), "q0") == [("d0", pytest.approx(65.43))]


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
        *((toks, TypeError) for toks in (None, float("nan"), "a b", {1: 1.0})),
        *(({"a": weight}, ValueError) for weight in (None, float("nan"), float("inf"), -0.5, "1")),
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
    assert index.vocabulary == open_index(tmp_path / "i", engine).stats()["fingerprint"] == "vocab1"
    retriever = index.retriever(1)
    assert retrieved(retriever(frame([Toks({"a": 1.5}.items(), "vocab1:1")])), "q0") == [("d0", pytest.approx(3))]
    with pytest.raises(ValueError, match="another vocabulary .vocab2. than the documents"):
        retriever(frame([Toks({"a": 1.5}.items(), "vocab2:1")]))
    with pytest.raises(ValueError, match="encoded at scale 100, unscaled weights"):
        retriever(frame([Toks({"a": 150.0}.items(), "vocab1:100")]))


def test_damaged_indexes_are_not_served(index, tmp_path):
    import shutil

    for file in [file for file in index.engine_path.rglob("*") if file.stat().st_size > 1][:4]:
        copy = tmp_path / "copy"
        shutil.copytree(index.path, copy)
        harmed = copy / file.relative_to(index.path)
        with open(harmed, "r+b") as out:
            out.truncate(file.stat().st_size // 2)
        damaged = open_index(copy, index.engine)
        assert not damaged.built
        with pytest.raises(ValueError, match=f"damaged: .*{file.name}"):
            damaged.retriever()(QUERIES)
        harmed.unlink()
        with pytest.raises(ValueError, match=f"damaged: .*{file.name}"):
            damaged.stats()
        assert damaged.indexer(mode="overwrite").index(DOCS[:3]).built
        shutil.rmtree(copy)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("engine", ENGINES)
def test_bits_choose_the_scale(tmp_path, engine, bits):
    """The largest weight is 2**bits - 1, all others the nearest multiples; twice on one handle is the same."""
    largest = max(max(d["toks"].values(), default=0) for d in DOCS)
    docs = [{"docno": d["docno"], "toks": Toks(d["toks"].items(), "v:10000")} for d in DOCS]
    handle = open_index(tmp_path / "i", engine)
    for _ in range(2):
        handle.indexer(bits=bits, mode="overwrite").index(docs)
        index = open_index(tmp_path / "i")
        assert index.scale == handle.scale == pytest.approx((2**bits - 1) / (largest / 10_000), rel=1e-5)
        kept = {t for d in DOCS for t, w in d["toks"].items() if round(w * (2**bits - 1) / largest) >= 1}
        assert (index.open().document_frequencies > 0).sum() == len(kept)
        query = QUERIES["query_toks"][0]
        exact = {
            d["docno"]: sum(w * round(d["toks"].get(t, 0) / 1e4 * index.scale) for t, w in query.items()) / index.scale
            for d in DOCS
        }
        for docno, score in retrieved(index.retriever(20)(frame([query])), "q0"):
            assert score == pytest.approx(exact[docno], rel=TOLERANCE[engine], abs=1e-3 * max(exact.values()))


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES[:2])
def test_engines_convert_into_one_another(tmp_path, source, target):
    first = open_index(tmp_path / "a", source).indexer(made_from={"encoder": "e"}).index(DOCS)
    second = open_index(tmp_path / "b", target).indexer().index(first)
    assert second.made_from == {"encoder": "e"} and second.docnos == [d["docno"] for d in DOCS]
    assert (second.to_csr() != first.to_csr()).nnz == 0
    tops = [set(zip(r["qid"], r["docno"], strict=True)) for r in (i.retriever(10)(QUERIES) for i in (first, second))]
    assert len(tops[0] & tops[1]) >= 0.99 * len(tops[0])
    few = open_index(tmp_path / "c", "exact").indexer().index(first.pruned(3))
    assert few.stats()["active_max"] == 3 and few.made_from == {"encoder": "e", "pruned": [3, 0.0]}


@pytest.mark.parametrize("engine", ENGINES)
def test_append(tmp_path, engine):
    """As if all had come at once; what is added to is no longer made from one thing."""
    index = open_index(tmp_path / "i", engine)
    for part in (DOCS[:250], DOCS[250:251], DOCS[251:]):
        index.indexer(mode="append", made_from={"a": 1} if part is DOCS[:250] else None).index(part)
    at_once = open_index(tmp_path / "j", engine).indexer().index(DOCS)
    pd.testing.assert_frame_equal(index.retriever(50)(QUERIES), at_once.retriever(50)(QUERIES))
    assert index.made_from is None and len(index) == len(DOCS)
    with pytest.raises(ValueError, match="doc0"):
        index.indexer(mode="append").index(DOCS[:1])
    assert index.rows(["doc5"]).sum() == pytest.approx(sum(at_once.rows(["doc5"]).data))


def test_plain_pyterrier_reads_the_terrier_index(tmp_path):
    open_index(tmp_path / "i", "terrier").indexer().index(DOCS)
    plain = pt.terrier.TerrierIndex(open_index(tmp_path / "i").engine_path).tf(num_results=10)(QUERIES)
    ours = open_index(tmp_path / "i").retriever(10)(QUERIES)
    largest = QUERIES["query_toks"].map(lambda q: max(q.values()))
    for qid, w in zip(QUERIES["qid"], largest, strict=True):
        scores = plain[plain["qid"] == qid]["score"] * w / 100
        # plain PyTerrier prints the query's weights with six decimals
        np.testing.assert_allclose(scores, [s for _, s in retrieved(ours, qid)], rtol=1e-5)
