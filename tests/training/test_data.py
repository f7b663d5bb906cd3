"""Training data of every form, files, and what is refused before the first step."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
import torch

from pyterrier_rescale import train
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.data.loading import check_rows, load_rows
from pyterrier_rescale.training.data.rows import Row, text_id
from pyterrier_rescale.training.run import prepare_output
from pyterrier_rescale.training.trainer import Collator, GlobalBatches

TRIPLES = [("q1", "d1", "n1"), ("q2", "d2", "n2")]
ROWS = [Row("q1", ("d1", "n1")), Row("q2", ("d2", "n2"))]


class WithPairs:
    def train_pairs(self):
        return [("q1", "d1"), ("q2", "d2")]


@pytest.mark.parametrize(
    "data",
    [
        TRIPLES,
        iter(TRIPLES),
        [list(row) for row in TRIPLES],
        [{"query": q, "positive": p, "negative": n} for q, p, n in TRIPLES],
        [{"query": q, "positive": p, "negatives": [n]} for q, p, n in TRIPLES],
        pd.DataFrame(TRIPLES, columns=["query", "positive", "negative_1"]),
        pd.DataFrame(TRIPLES, columns=["query", "text", "negative"]).assign(qid=[1, 2]),
    ],
)
def test_forms(data):
    assert list(load_rows(data)) == ROWS


def test_collection_and_hugging_face_dataset():
    from datasets import Dataset, DatasetDict

    assert list(load_rows(WithPairs())) == [Row("q1", ("d1",)), Row("q2", ("d2",))]
    dataset = Dataset.from_dict({"anchor": ["q1", "q2"], "positive": ["d1", "d2"], "negative": ["n1", "n2"]})
    assert list(load_rows(dataset)) == ROWS
    with pytest.raises(ValueError, match=r"one split, e.g. data\['train'\], got a DatasetDict of train"):
        load_rows(DatasetDict(train=dataset))


def test_teacher_scores():
    expected = Row("q", ("d", "n"), (3.0, 1.0))
    assert list(load_rows([("q", "d", "n", [3, 1])])) == [expected]
    assert list(load_rows([{"query": "q", "positive": "d", "negative": "n", "scores": [3, 1]}])) == [expected]
    margins = pd.DataFrame([("q", "d", "n", 2.0)], columns=["query", "positive", "negative", "label"])
    assert load_rows(margins)[0] == Row("q", ("d", "n"), (2.0, 0.0))
    with pytest.raises(ValueError, match="2 documents need 2 scores, got 3"):
        load_rows([("q", "d", "n", [3, 1, 2])])
    with pytest.warns(UserWarning, match="1 with a missing teacher score"):
        assert len(load_rows([("q", "d", "n", [3, float("nan")]), ("q", "d", "n", [3, 1])])) == 1


def test_missing_and_blank_texts_are_counted():
    data = [("q", "d"), (None, "d"), ("q", float("nan")), ("q", "  "), ("q", pd.NA), ("", "d"), ("r", "e")]
    with pytest.warns(UserWarning, match="5 training rows dropped .*2 with a missing document.*; 2 are left"):
        rows = load_rows(data)
    assert list(rows) == [Row("q", ("d",)), Row("r", ("e",))]
    assert sum(rows.skipped.values()) == 5


@pytest.mark.parametrize("compress", [False, True])
def test_files(tmp_path, compress):
    json_lines = "\n".join(json.dumps({"query": q, "positive": p, "negatives": [n]}) for q, p, n in TRIPLES) + "\n\n"
    plain = "\n".join("\t".join(row) for row in TRIPLES)
    header = "query\tpositive\tnegative\n" + plain
    for name, text in (("a.jsonl", json_lines), ("b.tsv", plain), ("c.tsv", header)):
        path = tmp_path / (name + (".gz" if compress else ""))
        path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
        rows = load_rows(path)
        assert [rows[1], rows[0]] == [ROWS[1], ROWS[0]]
        assert rows.positives("q1") == {text_id("d1")}


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz"])
def test_margins_and_scores_of_tsv_files(ending, tmp_path):
    path = tmp_path / f"data{ending}"

    def scores(text):
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
        return [(row.documents, row.scores) for row in load_rows(path)]

    documents = ("a text", "another")
    assert scores("q\ta text\tanother\t12.3\nr\ta text\tanother\t-2\n") == [
        (documents, (12.3, 0)), (documents, (-2, 0))
    ]  # fmt: skip
    assert scores("query\tpositive\tnegative\tscores\nq\ta text\tanother\t[2, 1.5]\n") == [(documents, (2, 1.5))]
    assert scores("query\tpositive\tnegative\tscores\nq\ta text\tanother\t1.5\n") == [(documents, (1.5, 0))]
    with pytest.raises(ValueError, match="a score must be a number, got 'high'"):
        scores("query\tpositive\tnegative\tscores\nq\ta text\tanother\thigh\n")
    with pytest.raises(ValueError, match="ids or scores where texts are needed"):
        scores("q\ta text\t3\nr\ta text\t2.5\n")


def test_bad_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"query": "q", "positive": "d"}\nnot json\n')
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "c.csv").write_text("q,d\n")
    (tmp_path / "d.tsv").write_text("query\ttitle\nq\tt\n")
    (tmp_path / "e.tsv").write_text("")
    (tmp_path / "f.tsv").write_text("\n \n")
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "h.jsonl").write_text('{"question": "q", "title": "d"}\n')
    (tmp_path / "i.tsv").write_text("query\tpositive\tnegative\nq\td\n")
    (tmp_path / "j.jsonl").write_text('"q"\n')
    (tmp_path / "k.tsv").write_text("only a query\n")
    for name, message in (
        ("a.jsonl", "not JSON: b'not json"),
        ("b.jsonl", "must hold at least one pair"),
        ("c.csv", "must end in .jsonl, .tsv"),
        ("d.tsv", "no positive column .*; its columns are query, title"),
        ("e.tsv", "must hold at least one pair"),
        ("f.tsv", "must hold at least one pair"),
        ("g.jsonl.gz", "at least one pair of texts, but it is empty"),
        ("h.jsonl", "no positive column .*; its columns are question, title"),
        ("i.tsv", "2 fields where the header has 3"),
        ("k.tsv", "row 0 of data must hold a query and a positive, got 1 text"),
    ):
        with pytest.raises(ValueError, match=message):
            load_rows(tmp_path / name)
    with pytest.raises(TypeError, match="row 0 of data must be a tuple .*got 'q'"):
        load_rows(tmp_path / "j.jsonl")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "at least one pair of texts, but it is empty"),
        (42, TypeError, "data must be a collection with train_pairs.*got int"),
        ({"query": ["q"]}, TypeError, "got dict"),
        (["only a string"], TypeError, "row 0 of data must be a tuple"),
        ([("q",)], ValueError, "row 0 of data must hold a query and a positive, got 1 text"),
        ([("q", 3)], ValueError, "row 0 of data must hold a query and a positive"),
        ([("q", "d", 3, "x")], TypeError, "row 0 of data: document must be a string, got 3"),
        (pd.DataFrame({"query": ["q"], "title": ["d"]}), ValueError, "no positive column"),
        ([{"text": "d"}], ValueError, "no query column"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        load_rows(data)


PAIRS = [(f"q{i}", f"d{i}") for i in range(6)]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PAIRS, {"batch_size": 7}, "batch_size must be at most 6, the number of training rows, got 7"),
        (PAIRS, {"batch_size": 1}, "batch_size must be at least 2"),
        ([("q", f"d{i}") for i in range(6)], {}, "the queries of data are all the same text"),
        ([(f"q{i}", "d") for i in range(6)], {}, "the documents of data are all the same text"),
        ([(f"q{i}", f"q{i}") for i in range(6)], {}, "query and the document of every pair of data are the same"),
        (PAIRS, {"negatives": 1}, "negatives must be at most 0, the number that row 0 of data has, got 1"),
        (PAIRS, {"loss": "kl"}, "loss='kl' needs at least 1 negative"),
        ([(*pair, "n") for pair in PAIRS], {"loss": "margin_mse"}, "needs teacher scores, and row 0"),
        ([(*p, "n", [2, 1]) for p in PAIRS[:5]] + [("q", "d", "n")], {"loss": "kl"}, "and row 5 of data has none"),
        ([(q, d, d, [2, 1]) for q, d in PAIRS], {"loss": "kl"}, "every negative of data is the same text as its posi"),
        ([(q, d, d) for q, d in PAIRS], {}, "every negative of data is the same text as its positive"),
    ],
)
def test_refused_before_anything_is_loaded(data, options, message, tmp_path):
    """The backbone does not exist: the data are looked at first."""
    with pytest.raises(ValueError, match=message):
        train("no/such/backbone", data, tmp_path / "out", **{"batch_size": 4, **options})


def test_ragged_negatives_use_the_smallest_number():
    rows = load_rows([("q1", "d1", "a", "b"), ("q2", "d2", "c")])
    with pytest.warns(UserWarning, match="1 to 2 negatives: 1 are used"):
        assert check_rows(rows, TrainConfig(batch_size=2)) == 1
    assert check_rows(rows, TrainConfig(batch_size=2, negatives=0)) == 0


def test_output_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        prepare_output(tmp_path / "file", TrainConfig(), False, False)
    with pytest.raises(OSError, match="cannot be written"):
        prepare_output("/proc/none", TrainConfig(), False, False)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(FileExistsError, match="holds an encoder already"):
        prepare_output(tmp_path, TrainConfig(), False, False)


def test_batches_are_full_shuffled_and_repeatable():
    batches = GlobalBatches(10, 3, seed=1)
    first, again = list(batches), list(GlobalBatches(10, 3, seed=1))
    assert first == again and len(first) == len(batches) == 3
    assert len({row for batch in first for row in batch}) == 9
    batches.set_epoch(1)
    assert list(batches) != first


def test_two_processes_share_the_batch_of_one(monkeypatch):
    from pyterrier_rescale.training import trainer

    whole = list(GlobalBatches(20, 4, seed=0))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(trainer, "world", lambda rank=rank: (rank, 2))
        parts.append(list(GlobalBatches(20, 2, seed=0)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_collator_knows_all_positives_of_a_query():
    class Tokens:
        def tokenise(self, texts, max_length, *, queries=False):
            return {"input_ids": torch.zeros(len(texts), max_length)}

    rows = load_rows([("q1", "d1", "n1", [2, 1]), ("q1", "d2", "n2", [2, 1]), ("q2", "d3", "n3", [2, 1])])
    batch = Collator(rows, Tokens(), negatives=1, max_length=8, query_max_length=4)([rows[0], rows[2]])
    assert batch["query"]["input_ids"].shape == (2, 4) and batch["document"]["input_ids"].shape == (4, 8)
    assert batch["document_ids"].tolist() == [text_id(text) for text in ("d1", "n1", "d3", "n3")]
    assert set(batch["positives"][0].tolist()) == {text_id("d1"), text_id("d2")}
    assert set(batch["positives"][1].tolist()) == {text_id("d3"), -1}
    assert batch["scores"].tolist() == [[2, 1], [2, 1]]


@pytest.mark.parametrize("name", ["negative_id", "negative_source", "negative1", "hard_negative", "Negative"])
def test_columns_that_only_sound_like_negatives_are_refused(name):
    rows = [{"query": q, "positive": p, "negative": n, name: "x"} for q, p, n in TRIPLES]
    for data in (rows, pd.DataFrame(rows)):
        with pytest.raises(ValueError, match=f"data has {name}: negatives are read from negative, negatives and"):
            load_rows(data)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("q one\td one\tn one\tm one\t12.3\nq two\td two\tn two\tm two\t-4\n", "document 4 of every row is a number"),
        ("12.3\tq one\td one\n0.5\tq two\td two\n", "query of every row is a number"),
        ("1\t2\t3\n4\t5\t6\n", "query of every row is a number"),
    ],
)
def test_numbers_are_never_trained_as_texts(lines, what, tmp_path):
    (tmp_path / "a.tsv").write_text(lines)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    for data in (tmp_path / "a.tsv", tmp_path / "a.tsv.gz", [line.split("\t") for line in lines.splitlines()]):
        with pytest.raises(ValueError, match=f"{what}.*texts=.*'score'"):
            load_rows(data)


def test_half_a_character_is_found_before_the_first_step():
    with pytest.raises(ValueError, match="row 1 of data: document holds a lone surrogate"):
        load_rows([("a", "b"), ("c", "half \ud83d of it")])
