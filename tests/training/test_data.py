"""Training data of every form, texts or ids: the rows they give, what is left out and told, what is refused."""

from __future__ import annotations

import gzip
import json
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest

from pyterrier_rescale.collections import load_collection, write_beir
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.loading import load_rows
from pyterrier_rescale.training.rows import Row, fitting_rows, text_id

TRIPLES = [("q1", "d1", "n1"), ("q2", "d2", "n2")]
ROWS = [Row("q1", ("d1", "n1")), Row("q2", ("d2", "n2"))]
COLUMNS = ("query", "positive", "negative")

DOCUMENTS = [{"docno": f"{i}", "text": f"d{i}"} for i in range(1, 7)] + [{"docno": "9", "text": "  "}]
TOPICS = {"1": "q1", "2": "q2", "3": " "}
TEXTS = (DOCUMENTS, TOPICS)
FRAMES = (pd.DataFrame(DOCUMENTS), pd.DataFrame(TOPICS.items(), columns=["qid", "query"]))
IDS = [("1", "2", "3"), ("2", "4", "5")]
ID_ROWS = [Row("q1", ("d2", "d3")), Row("q2", ("d4", "d5"))]
ID_FRAME = pd.DataFrame(IDS, columns=["qid", "docno", "negative"])


class WithPairs:
    def train_pairs(self, min_label=1):
        return [("q1", "d1"), ("q2", "d2")][min_label - 1 :]


SimpleQrel = namedtuple("SimpleQrel", "query_id doc_id relevance")  # of ir_datasets


@pytest.mark.parametrize(
    "data",
    [
        TRIPLES,
        iter(TRIPLES),
        [{"query": q, "positive": p, "negative": n} for q, p, n in TRIPLES],
        [{"question": q, "answer": p, "negatives": [n]} for q, p, n in TRIPLES],
        [{" Query": q, "positive ": [p], "NEGATIVE": [n]} for q, p, n in TRIPLES],
        pd.DataFrame(TRIPLES, columns=["query", "positive", "negative_1"]),
        pd.DataFrame(TRIPLES, columns=["query", "text", "negative"]).assign(qid=[1, 2]),
        pd.DataFrame([(q, p, np.array([n])) for q, p, n in TRIPLES], columns=["query", "positive", "negatives"]),
        pd.DataFrame(TRIPLES, columns=COLUMNS, dtype="string"),
    ],
)
def test_forms(data):
    assert list(load_rows(data)) == ROWS


def test_collection_and_hugging_face_dataset():
    from datasets import Dataset, DatasetDict

    assert list(load_rows(WithPairs())) == [Row("q1", ("d1",)), Row("q2", ("d2",))]
    assert list(load_rows(WithPairs(), min_label=2)) == [Row("q2", ("d2",))]
    dataset = Dataset.from_dict({"anchor": ["q1", "q2"], "positive": ["d1", "d2"], "negative": ["n1", "n2"]})
    assert list(load_rows(dataset)) == ROWS
    with pytest.raises(TypeError, match="a split of a Hugging Face Dataset"):
        load_rows(DatasetDict(train=dataset))
    assert list(load_rows(Dataset.from_pandas(ID_FRAME), TEXTS)) == ID_ROWS


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_files(tmp_path, packed):
    plain = "\n".join("\t".join(row) for row in TRIPLES)
    objects = "\n".join(json.dumps({"query": q, "positive": p, "negatives": [n]}) for q, p, n in TRIPLES)
    for name, text, columns in (
        ("a.jsonl", objects + "\n\n", None),
        ("b.tsv", plain, COLUMNS),
        ("c.tsv", "\ufeff" + "\t".join(COLUMNS) + "\r\n" + plain, None),
        ("d.csv", ",".join(COLUMNS) + "\n" + plain.replace("\t", ","), None),
        ("e.jsonl", "\n".join(map(json.dumps, TRIPLES)), None),
    ):
        rows = load_rows(write(tmp_path / (name + packed), text), columns=columns)
        assert [rows[1], rows[0]] == [ROWS[1], ROWS[0]] and len(rows) == 2
        assert rows.no_negatives("q1") == {text_id("q1"), text_id("d1")}
    lists = "\n".join(json.dumps([*map(int, row), [2.0, 1.0]]) for row in IDS)
    for name, text, columns in (
        ("f.tsv", "\n".join("\t".join(row) for row in IDS), ("qid", "docno", "negative")), ("h.jsonl", lists, None),
    ):  # fmt: skip
        rows = load_rows(write(tmp_path / (name + packed), text), TEXTS, columns=columns)
        assert [row[:2] for row in rows] == [row[:2] for row in ID_ROWS]


def test_scores_and_margins(tmp_path):
    expected = Row("q", ("d", "n"), (3.0, 1.0))
    assert list(load_rows([("q", "d", "n", [3, 1])])) == [expected]
    assert list(load_rows([{"query": "q", "positive": "d", "negative": "n", "scores": np.array([3, 1])}])) == [expected]
    margins = pd.DataFrame([("q", "d", "n", 2.0)], columns=[*COLUMNS, "label"])
    assert load_rows(margins)[0] == Row("q", ("d", "n"), (2.0, 0.0))
    with pytest.warns(UserWarning, match="1 with a missing label or score"):
        assert len(load_rows([("q", "d", "n", [3, float("nan")]), ("q", "d", "n", [3, 1])])) == 1
    for value, scores in (("[2, 1.5]", (2, 1.5)), ("1.5", (1.5, 0))):
        text = f"query\tpositive\tnegative\tscores\nq\ta text\tanother\t{value}\n"
        assert load_rows(write(tmp_path / "a.tsv", text))[0].scores == scores
    rows = load_rows([("1", "2", "3", "4", np.array([3, 2, 1])), ("2", "4", "5")], TEXTS)
    assert list(rows) == [Row("q1", ("d2", "d3", "d4"), (3.0, 2.0, 1.0)), Row("q2", ("d4", "d5"))]


def test_what_is_missing_is_counted():
    data = [("q", "d"), (None, "d"), ("q", float("nan")), ("q", "  "), ("q", pd.NA), ("", "d"), ("r", "e")]
    with pytest.warns(UserWarning, match="5 training rows dropped .*3 with a missing or blank document.*; 2 are left"):
        rows = load_rows(data)
    assert list(rows) == [Row("q", ("d",)), Row("r", ("e",))]
    data = [*IDS, ("8", "2", "3"), ("1", "77", "3"), ("1", "2", None), ("3", "2", "3"), ("1", "2", "9"),
            ("1", "2", "3", [1.0, float("nan")])]  # fmt: skip
    with pytest.warns(UserWarning, match="6 training rows dropped .*2 are left"):
        rows = load_rows(data, TEXTS)
    assert list(rows) == ID_ROWS
    assert rows.skipped == {
        "a missing or blank document id": 1, "a missing label or score": 1,
        "a query that texts does not have, or a blank one": 2,
        "a document that texts does not have, or a blank one": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        [tuple(map(int, row)) for row in IDS],
        [tuple(map(np.int64, row)) for row in IDS],
        [{"qid": q, "docno": p, "negatives": [n]} for q, p, n in IDS],
        ID_FRAME,
        ID_FRAME.assign(query="the text itself", negative=ID_FRAME["negative"].astype(float)),
        ID_FRAME.rename(columns={"qid": "query_id", "docno": "positive_id", "negative": "negative_id"}),
        ID_FRAME.rename(columns={"qid": "query", "docno": "positive"}),
    ],
)
@pytest.mark.parametrize("texts", [TEXTS, FRAMES])
def test_forms_of_ids(data, texts):
    rows = load_rows(data, texts)
    assert list(rows) == ID_ROWS and rows.skipped == {}
    assert rows.no_negatives("q1") == {text_id("q1"), text_id("d2")}


QRELS = pd.DataFrame({"qid": ["1", "1", "2"], "docno": ["2", "3", "4"], "label": [1, 0, 2]})
JUDGED = list(QRELS.itertuples(index=False, name=None))
TREC = ("qid", "iteration", "docno", "label")
JUDGEMENTS = {
    "trec.tsv": ("".join(f"{q}\t0\t{d}\t{label}\n" for q, d, label in JUDGED), TREC),
    "beir.tsv": ("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{label}\n" for q, d, label in JUDGED), None),
    "frame": (QRELS, None),
    "irds frame": (QRELS.rename(columns={"label": "relevance"}).assign(iteration="0"), None),
    "irds": ([SimpleQrel(*one) for one in JUDGED], None),
    "tuples": (JUDGED, None),
}


@pytest.mark.parametrize("form", JUDGEMENTS)
def test_judgements_are_ids(form, tmp_path):
    data, columns = JUDGEMENTS[form]
    data = write(tmp_path / form, data) if isinstance(data, str) else data
    with pytest.warns(UserWarning, match="1 with a label below 1"):
        assert list(load_rows(data, TEXTS, columns=columns)) == [Row("q1", ("d2",)), Row("q2", ("d4",))]
    with pytest.warns(UserWarning, match="2 with a label below 2"):
        assert list(load_rows(data, TEXTS, columns=columns, min_label=2)) == [Row("q2", ("d4",))]
    with pytest.raises(ValueError, match="texts=|fields"):
        load_rows(data, columns=columns)


def test_a_collection_gives_all_its_topics(tmp_path):
    documents = [{**document, "title": "a title"} for document in DOCUMENTS[:6]]
    topics = [{"qid": qid, "query": f"find {query}"} for qid, query in list(TOPICS.items())[:2]]
    qrels = {"train": [{"qid": "1", "docno": "2", "label": 1}]}  # the other topic is judged nowhere
    collection = load_collection(documents=documents, topics=topics, qrels=qrels)
    write_beir(collection, tmp_path / "beir")
    assert list(load_rows(IDS, collection))[1] == Row("find q2", ("a title d4", "a title d5"))
    assert list(load_rows(str(tmp_path / "beir"))) == [Row("find q1", ("a title d2",))]
    assert list(load_rows(IDS, str(tmp_path / "beir"))) == list(load_rows(IDS, load_collection(tmp_path / "beir")))


HALF = "half \ud83d of it"


@pytest.mark.parametrize(
    ("data", "texts", "error", "message"),
    [
        ([], None, ValueError, "data must hold at least one pair .* but it is empty"),
        (42, None, TypeError, "data must be a collection with train_pairs.*got int"),
        (["only a string"], None, TypeError, "row 0 of data must be a tuple"),
        ([("q", "d", 3, "x")], None, ValueError, "row 0 of data: text 2 must be a string, got 3"),
        ([("q", "d", "n", [3, 1, 2])], None, ValueError, "row 0 of data: 2 documents need 2 scores, got 3"),
        ([{"query": "q", "positive": "d", "score": "high"}], None, ValueError, "row 0 of data: a score must be a num"),
        ([{"query": "q", "positive": ["d", "e"]}], None, ValueError, "row 0 of data: positive holds 2 texts"),
        (pd.DataFrame({"query": ["q"], "title": ["d"]}), None, ValueError, "data has no positive column"),
        (QRELS, None, ValueError, "if they hold ids, say where the texts stand, with texts="),
        ([("1", "2", "3"), ("4", "5", "6")], None, ValueError, "of every row is a number.* with texts="),
        ([("q", "d", "n", "2.5"), ("r", "e", "m", "-4")], None, ValueError, "last document of every row is a number"),
        ([("a", "b"), ("c", HALF)], None, ValueError, "row 1 of data: text 1 holds half a character"),
        ([("x", "y")], TEXTS, ValueError, "but all 1 rows were dropped"),
        (IDS, "msmarco", ValueError, "unknown collection 'msmarco'"),
        (IDS, (DOCUMENTS, ["q1"]), ValueError, "topics must be a frame with columns qid and query"),
        (QRELS.assign(label=12.3), TEXTS, ValueError, "label of a pair must be a whole number, got 12.3"),
        ("no-such.tsv", TEXTS, FileNotFoundError, "no-such.tsv"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*training rows dropped")
def test_refused_data(data, texts, error, message):
    with pytest.raises(error, match=message):
        load_rows(data, texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"query": "q", "positive": "d"}\nnot json\n', "a.jsonl': not JSON: 'not json"),
        ("b.jsonl", b"", "it is empty"),
        ("c.parquet", b"q", "data file must end in .json"),
        ("e.csv", b'query,positive\nq,"p\nr,d\n', "e.csv, line 3: is no CSV"),
        ("d.tsv", b"query\ttitle\nq\tt\n", "no positive column .*; its columns are query, title"),
        ("f.tsv", b"a query\ta document\nanother\ttext\n", "no query column.* file without a header with columns="),
        ("i.tsv", b"query\tpositive\tnegative\nq\td\n", "i.tsv': 2 fields, columns are query, positive, negative"),
    ],
)
def test_refused_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path / name)


def test_texts_are_as_they_were_before_they_were_quoted(tmp_path):
    frame = pd.DataFrame([('say "hello"', "a, b"), ("q", "one\nline more")], columns=["query", "positive"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert [[row.query, *row.documents] for row in load_rows(tmp_path / "a.csv")] == frame.to_numpy().tolist()
    assert list(load_rows(write(tmp_path / "c.tsv", 'query\tpositive\n"a" b\t"\n'))) == [Row('"a" b', ('"',))]
    frame = frame[:1].assign(negatives=[["n, 1", "it's"]])
    for name, separator in (("d.csv", ","), ("d.tsv", "\t")):  # as pandas writes them
        frame.to_csv(tmp_path / name, sep=separator, index=False)
        assert list(load_rows(tmp_path / name)) == [Row('say "hello"', ("a, b", "n, 1", "it's"))]
    headed = write(tmp_path / "e.tsv", "Query\tpositive\nq\td\n")
    assert list(load_rows(headed, columns=("query", "positive"))) == [Row("q", ("d",))]


def test_labels_of_pairs_are_labels_and_unused_columns_are_named():
    frame = pd.DataFrame({"query": ["q", "r", "s"], "passage": ["d", "e", "f"], "relevance": ["1", "0", "2"]})
    with pytest.warns(UserWarning, match="1 with a label below 1"):
        assert [row.query for row in load_rows(frame)] == ["q", "s"]
    with pytest.warns(UserWarning, match="labels of data are 1, 2, and never 0: .* min_label"):
        assert len(load_rows([("q", "d", 1), ("q", "e", 2)])) == 2
    unused = {"neg": "n", "hard_neg_1": "n", "margin": 1.0, "Query": "x", "negative_source": "bm25"}
    rows = [{"query": "q", "positive": "d", "negative": "n", **unused}]
    for data in (rows, pd.DataFrame(rows)):
        with pytest.warns(UserWarning, match="not used: Query, hard_neg_1, margin, neg, negative_source"):
            assert list(load_rows(data)) == [Row("q", ("d", "n"))]


PAIRS = [(f"q{i}", f"d{i}") for i in range(6)]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PAIRS, {"batch_size": 7}, "batch_size must be at most 6, the number of training rows"),
        (PAIRS, {"batch_size": 1}, "batch_size must be at least 2"),
        ([(f"q{i}", f"q{i}") for i in range(6)], {}, "queries of data are their documents"),
        (PAIRS, {"negatives": 1}, "negatives must be at most 0, as many as row 0 of data has, got 1"),
        (PAIRS, {"loss": "kl"}, "loss='kl' needs at least 1 negative"),
        ([(*pair, "n") for pair in PAIRS], {"loss": "margin_mse"}, "needs teacher scores, and row 0"),
        ([(*p, "n", [2, 1]) for p in PAIRS[:5]] + [("q", "d", "n")], {"loss": "kl"}, "and row 5 of data has none"),
    ],
)
def test_rows_that_do_not_suit_the_loss(data, options, message):
    with pytest.raises(ValueError, match=message):
        fitting_rows(load_rows(data), TrainConfig(**{"batch_size": 4, **options}))


def test_ragged_negatives_use_the_smallest_number():
    rows = load_rows([("q1", "d1", "a", "b"), ("q2", "d2", "c")])
    with pytest.warns(UserWarning, match="1 to 2 negatives: 1 of each are used"):
        assert fitting_rows(rows, TrainConfig(batch_size=2))[1] == 1
    assert fitting_rows(rows, TrainConfig(batch_size=2, negatives=0))[1] == 0
