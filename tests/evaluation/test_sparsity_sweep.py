"""The sweep over numbers of terms: its figures are those of the parts, indexes are reused, mistakes are told."""

from __future__ import annotations

import ir_measures
import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, encode, open_index
from pyterrier_rescale.evaluation.sparsity import sweep

DOCUMENTS = [{"docno": f"d{i}", "text": f"{text} {i % 7}"} for i, text in enumerate(tiny.TEXTS * 3)]
TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": ["sparse retrieval", "batch of documents"]})
QRELS = pd.DataFrame({"qid": ["1", "1", "2"], "docno": ["d0", "d5", "d17"], "label": [1, 2, 1]})


@pytest.fixture(scope="module")
def splade(bert_folder):
    return Splade(bert_folder, max_length=64)


def test_a_row_per_choice(splade, tmp_path):
    vectors = encode(splade, DOCUMENTS, tmp_path / "v", verbose=False)
    settings = {"max_terms": (None, 20), "query_terms": (None, 3), "measures": ["nDCG@10", ir_measures.RR]}
    table = sweep(splade, vectors, TOPICS, QRELS, tmp_path / "i", **settings)
    assert list(table.columns) == [
        "max_terms", "min_weight", "query_terms", "active", "index_mb", "nDCG@10", "RR", "ms_per_query",
    ]  # fmt: skip
    assert table["max_terms"].tolist() == [pd.NA, pd.NA, 20, 20] and table["query_terms"].tolist() == [pd.NA, 3] * 2
    for row, (documents, queries) in zip(table.to_dict("records"), [(None, None), (None, 3), (20, None), (20, 3)],
                                         strict=True):  # fmt: skip
        index = open_index(tmp_path / f"{documents}-{queries}", "exact")
        (splade.doc_encoder(max_terms=documents) >> index.indexer()).index(DOCUMENTS)
        run = (splade.query_encoder(max_terms=queries) >> index.retriever())(TOPICS)
        run = run.rename(columns={"qid": "query_id", "docno": "doc_id"})
        judged = QRELS.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR], judged, run)
        assert row["nDCG@10"] == pytest.approx(expected[ir_measures.nDCG @ 10])
        assert row["RR"] == pytest.approx(expected[ir_measures.RR])
        assert row["active"] == index.stats()["postings"] / len(DOCUMENTS) and row["ms_per_query"] > 0
    assert table["index_mb"][2] < table["index_mb"][0]
    before = open_index(tmp_path / "i" / "exact-20-0", "exact").generation
    both = sweep(splade, vectors, TOPICS, QRELS, tmp_path / "i", **{**settings, "max_terms": (20,)}, two_steps=True)
    assert open_index(tmp_path / "i" / "exact-20-0", "exact").generation == before, "reused"
    assert both["nDCG@10"].tolist() == pytest.approx([table["nDCG@10"][2]] * 2), "re-scored by all terms"


def test_another_encoder_and_other_indexes_are_refused(splade, tmp_path, modernbert_folder):
    vectors = encode(splade, DOCUMENTS, tmp_path / "v", verbose=False)
    with pytest.raises(ValueError, match="splade must be the encoder of the vectors"):
        sweep(Splade(modernbert_folder), vectors, TOPICS, QRELS, tmp_path / "i")
    (tmp_path / "i").mkdir()
    open_index(tmp_path / "i" / "exact-all-0", "exact").indexer().index([{"docno": "mine", "toks": {"x1": 1}}])
    with pytest.raises(FileExistsError, match="does not say what it was made from"):
        sweep(splade, vectors, TOPICS, QRELS, tmp_path / "i")


def test_pruned_vectors_and_those_of_an_index_know_their_encoder(splade, tmp_path, bert_folder):
    vectors = encode(splade, DOCUMENTS, tmp_path / "v", verbose=False)
    index = open_index(tmp_path / "i", "exact").indexer().index(vectors)
    other = Splade(bert_folder, max_length=32)
    for source in (vectors, vectors.pruned(5), index.vectors()):
        with pytest.raises(ValueError, match="splade must be the encoder of the vectors"):
            sweep(other, source, TOPICS, QRELS, tmp_path / "s")
    with pytest.raises(NameError, match="nDGC"):
        sweep(splade, vectors, TOPICS, QRELS, tmp_path / "s", measures=["nDGC@10"])
    assert not (tmp_path / "s").exists()
