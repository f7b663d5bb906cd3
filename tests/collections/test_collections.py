from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from pyterrier_rescale.collections import BeirCollection, load_collection, write_beir
from pyterrier_rescale.collections.base import Collection, make_document, order_splits
from pyterrier_rescale.collections.named import IrdsCollection, NamedCollection

DOCS = [
    {"_id": "d1", "title": "Cats", "text": "purr at night"},
    {"_id": "d2", "title": "", "text": "dogs bark"},
    {"_id": "d3", "title": "Empty body", "text": ""},
    {"_id": "d4", "title": "Birds", "text": "sing at dawn", "metadata": {"source": "zoo"}},
]
QUERIES = [{"_id": "q2", "text": "barking"}, {"_id": "q1", "text": "night noise"}, {"_id": "q3", "text": "song"}]


def _jsonl(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def make_folder(path, *, gz=False, train=None, docs=DOCS, test="q1\td1\t2\nq2\td2\t1\nq2\td1\t0\n"):
    (path / "qrels").mkdir(parents=True)

    def put(name, content):
        if gz:
            with gzip.open(path / f"{name}.gz", "wt", encoding="utf-8") as out:
                out.write(content)
        else:
            (path / name).write_text(content, encoding="utf-8")

    put("corpus.jsonl", _jsonl(docs))
    put("queries.jsonl", _jsonl(QUERIES))
    put("qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + test)
    if train is not None:
        put("qrels/train.tsv", "query-id\tcorpus-id\tscore\n" + train)
    return path


@pytest.mark.parametrize("gz", [False, True])
def test_beir_folder(tmp_path, gz):
    collection = load_collection(make_folder(tmp_path / "zoo", gz=gz))
    assert (collection.name, collection.splits, repr(collection)) == ("zoo", ("test",), "BeirCollection('zoo')")
    docs = list(collection.corpus())
    assert docs[0] == {"docno": "d1", "text": "Cats purr at night", "title": "Cats", "body": "purr at night"}
    assert docs[1] == {"docno": "d2", "text": "dogs bark", "title": "", "body": "dogs bark"}
    assert docs[3]["source"] == "zoo"
    assert [d["docno"] for d in collection.corpus()] == ["d1", "d2", "d3", "d4"], "a second pass starts afresh"
    # the order of the file, and only what the split judges
    assert collection.topics("test").to_dict("list") == {"qid": ["q2", "q1"], "query": ["barking", "night noise"]}
    qrels = collection.qrels("test")
    assert qrels.to_dict("list") == {"qid": ["q1", "q2", "q2"], "docno": ["d1", "d2", "d1"], "label": [2, 1, 0]}
    assert qrels["label"].dtype == "int64"


def test_corpus_is_streamed(tmp_path):
    folder = make_folder(tmp_path / "zoo")
    with open(folder / "corpus.jsonl", "a") as out:
        out.write("{broken\n")
    documents = load_collection(folder).corpus()
    assert [next(documents)["docno"] for _ in range(4)] == ["d1", "d2", "d3", "d4"]
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 5: is not JSON"):
        next(documents)


def test_train_pairs_from_qrels_count_what_is_left_out(tmp_path):
    train = "q1\td1\t2\nq2\td2\t1\nq3\td4\t0\nq3\tnowhere\t1\nq9\td1\t1\n"
    collection = load_collection(make_folder(tmp_path / "zoo", train=train))
    assert collection.splits == ("train", "test")
    with pytest.warns(UserWarning, match="left out 1 whose query is missing, 1 whose document is missing"):
        pairs = collection.train_pairs()
    assert pairs == [("night noise", "Cats purr at night"), ("barking", "dogs bark")]


def test_train_pairs_from_titles_count_the_empty_ones(tmp_path):
    collection = load_collection(make_folder(tmp_path / "zoo"))
    with pytest.warns(UserWarning, match="left out 2 documents without a title or without a body"):
        assert collection.train_pairs() == [("Cats", "purr at night"), ("Birds", "sing at dawn")]


def test_no_train_pairs_is_an_error(tmp_path):
    collection = load_collection(make_folder(tmp_path / "zoo", docs=DOCS[1:3]))
    with pytest.raises(ValueError, match="'zoo' has no training pairs"):
        collection.train_pairs()


def test_missing_things_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        load_collection(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="'./nowhere'|'nowhere' does not exist"):
        load_collection("./nowhere")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(FileNotFoundError, match="neither corpus.jsonl nor corpus.jsonl.gz"):
        load_collection(str(tmp_path / "hollow"))
    folder = make_folder(tmp_path / "zoo")
    with pytest.raises(ValueError, match="'zoo' has no split 'dev'; available: 'test'"):
        load_collection(folder).topics("dev")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="neither queries.jsonl nor"):
        load_collection(folder).topics("test")
    with pytest.raises(TypeError, match="must be a str or a path, got int"):
        load_collection(7)
    with pytest.raises(ValueError, match="empty string"):
        load_collection("")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", '{"title": "x", "text": "y"}', r"corpus\.jsonl, line 5: '_id' must be a non-empty str"),
        ("corpus.jsonl", '{"_id": "d9", "text": null}', r"corpus\.jsonl, line 5: 'text' must be a str, got None"),
        ("corpus.jsonl", "[1, 2]", r"corpus\.jsonl, line 5: must be a JSON object"),
        ("qrels/test.tsv", "q1 d1 1", r"test\.tsv, line 5: must be query-id, corpus-id and a whole score"),
        ("qrels/test.tsv", "q1\td1\tnan", r"test\.tsv, line 5: must be query-id"),
    ],
)
def test_malformed_lines_name_file_and_line(tmp_path, file, line, message):
    folder = make_folder(tmp_path / "zoo")
    with open(folder / file, "a") as out:
        out.write(line + "\n")
    collection = load_collection(folder)
    with pytest.raises(ValueError, match=message):
        list(collection.corpus()) and collection.qrels("test")


def test_cut_archive_is_an_error_not_a_short_corpus(tmp_path):
    folder = make_folder(tmp_path / "zoo", gz=True)
    content = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(content[:-12])
    with pytest.raises(ValueError, match=r"corpus\.jsonl\.gz, after line \d+: cannot be read on"):
        list(load_collection(folder).corpus())


def test_write_beir_gives_the_same_collection(tmp_path):
    first = load_collection(make_folder(tmp_path / "zoo", train="q3\td4\t1\n"))
    second = write_beir(first, tmp_path / "copy" / "zoo")
    assert list(second.corpus()) == list(first.corpus())
    assert second.splits == first.splits
    for split in first.splits:
        pd.testing.assert_frame_equal(second.qrels(split), first.qrels(split))
        assert set(second.topics(split)["query"]) == set(first.topics(split)["query"])
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write_beir(first, tmp_path / "copy" / "zoo")


class Numbers(Collection):
    """Documents 0..99; topic i looks for document 10 i, and for 10 i + 1 with label 0."""

    name = "numbers"
    splits = ("train", "test")

    def corpus(self):
        return (make_document(str(i), f"title {i}", f"body {i}") for i in range(100))

    def topics(self, split="test"):
        return pd.DataFrame({"qid": [f"{split}{i}" for i in range(10)], "query": [f"query {i}" for i in range(10)]})

    def qrels(self, split="test"):
        rows = [(f"{split}{i}", str(10 * i + j), 1 - j) for i in range(10) for j in range(2)]
        return pd.DataFrame(rows, columns=["qid", "docno", "label"])


def test_sample_keeps_what_its_topics_look_for():
    sample = Numbers().sample(20, 4, seed=3)
    docs = [doc["docno"] for doc in sample.corpus()]
    topics, qrels = sample.topics(), sample.qrels()
    assert len(docs) == 20 and len(topics) == 4
    assert docs == sorted(docs, key=int), "the order of the whole collection"
    relevant = qrels[qrels["label"] > 0]
    assert sorted(relevant["qid"]) == sorted(topics["qid"])
    assert set(relevant["docno"]) == {str(10 * int(qid.removeprefix("test"))) for qid in topics["qid"]}
    assert set(qrels["docno"]) <= set(docs)
    with pytest.raises(ValueError, match="has no split 'train'; available: 'test'"):
        sample.topics("train")


def test_sample_depends_on_the_seed_alone():
    def choice(seed, **options):
        sample = Numbers().sample(20, 4, seed=seed, **options)
        return [d["docno"] for d in sample.corpus()], list(sample.topics()["qid"])

    assert choice(3) == choice(3) != choice(4)
    # pinned: the choice must be the same in another process and on another machine
    assert choice(0)[1] == ["test1", "test3", "test4", "test8"]
    small, large = (set(d["docno"] for d in Numbers().sample(n, 4).corpus()) for n in (20, 40))
    assert small < large


def test_sample_training_pairs():
    every = Numbers().sample(20, 4).train_pairs()
    assert len(every) == 10 and every[3] == ("query 3", "title 30 body 30")
    sample = Numbers().sample(20, 4, pairs_in_sample=True)
    texts = {doc["text"] for doc in sample.corpus()}
    inside = sample.train_pairs()
    assert inside == [pair for pair in every if pair[1] in texts] and 4 <= len(inside) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "n_docs must be an integer >= 1 or None, got 0"),
        ((20, 1.5), "n_topics must be an integer >= 1 or None, got 1.5"),
        ((3, 10), "n_docs must be at least 10"),
    ],
)
def test_sample_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(Numbers().sample(*arguments).corpus())


def test_order_of_splits():
    assert order_splits({"zz", "test", "aa", "train", "dev"}) == ("train", "dev", "test", "aa", "zz")


class FakeDataset:
    """Answers as PyTerrier's datasets do."""

    def __init__(self, docs, error=None):
        self.docs, self.error = docs, error

    def get_corpus_iter(self, verbose=True):
        if self.error:
            raise self.error
        return iter(self.docs)

    def get_topics(self, variant=None):
        return pd.DataFrame({"qid": [1], "text": [f"topic {variant}"], "other": ["x"]})

    def get_qrels(self, variant=None):
        return pd.DataFrame({"qid": [1], "docno": ["d1"], "label": [2], "iteration": ["0"]})


def test_named_collection_has_the_same_interface():
    dataset = FakeDataset([{"docno": "d1", "title": "Cats", "abstract": "purr"}, {"docno": "d2", "text": "dogs"}])
    collection = NamedCollection("fake", dataset, {"test": (dataset, None), "dev": (dataset, "dev-small")})
    assert collection.splits == ("dev", "test")
    assert [doc["text"] for doc in collection.corpus()] == ["Cats purr", "dogs"]
    assert collection.topics("dev").to_dict("list") == {"qid": ["1"], "query": ["topic dev-small"]}
    assert collection.qrels("test").to_dict("list") == {"qid": ["1"], "docno": ["d1"], "label": [2]}
    with pytest.raises(ValueError, match="no split 'train'; available: 'dev', 'test'"):
        collection.qrels("train")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("name resolution failed"), ConnectionError, "corpus of 'fake' could not be read or downloaded"),
        (RuntimeError("All download sources failed"), ConnectionError, "no network"),
        (RuntimeError("something else"), RuntimeError, "something else"),
        (
            RuntimeError("All download sources failed", ["MaxRetryError('HTTPPool(host=\'a.org\', port=80): ...')"]),
            ConnectionError,
            "^corpus of 'fake' could not be read or downloaded .no network.*: no answer from a.org. Without a",
        ),
        (NotImplementedError("no docs"), ValueError, "'fake' has no corpus"),
    ],
)
def test_named_collection_errors(error, kind, message):
    with pytest.raises(kind, match=message):
        list(NamedCollection("fake", FakeDataset([], error), {}).corpus())


def test_named_documents_without_a_text():
    with pytest.raises(ValueError, match=r"none of the fields .* they have \['docno', 'url'\]"):
        list(NamedCollection("fake", FakeDataset([{"docno": "d1", "url": "x"}]), {}).corpus())


def test_irds_names_know_their_splits_without_a_download():
    scifact = load_collection("irds:beir/scifact")
    assert isinstance(scifact, IrdsCollection) and scifact.splits == ("train", "test")
    assert load_collection("irds:beir/scifact/test").splits == ("test",)
    assert {"dev/small", "trec-dl-2019/judged", "train"} <= set(load_collection("irds:msmarco-passage").splits)
    with pytest.raises(ValueError, match="'irds:beir/scifact' has no split 'dev'; available: 'train', 'test'"):
        scifact.topics("dev")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vaswanj", "'vaswani'"),
        ("Vaswani", "'vaswani'"),
        ("docstring", "'docstrings'"),
        ("irds:beir/scifacts", "'irds:beir/scifact'"),
        ("scifact", "'irds:beir/scifact'"),
        ("SciFact", "'irds:beir/scifact'"),
        ("msmarco-pasage", "'msmarco_passage'|'irds:msmarco-passage'"),
    ],
)
def test_unknown_names_show_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"unknown collection '{name}'; did you mean.*({near}).*BEIR format") as error:
        load_collection(name)
    assert len(str(error.value)) < 320, "the nearest, not all"


def test_names_like_paths_show_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="'beir/scifact' does not exist; did you mean 'irds:beir/scifact'"):
        load_collection("beir/scifact")
    with pytest.raises(ValueError, match="unknown collection 'zzzqqq'. Possible"):
        load_collection("zzzqqq")
    with pytest.raises(FileNotFoundError, match="nothing/of/it' does not exist$"):
        load_collection("nothing/of/it")


def test_pyterrier_names(monkeypatch):
    monkeypatch.setattr("pyterrier_rescale._utils.java.ensure_java", lambda: None)
    assert load_collection("vaswani").splits == ("test",)
    assert {"train", "dev.small"} <= set(load_collection("msmarco_passage").splits)


def test_a_folder_wins_over_a_name(tmp_path, monkeypatch):
    make_folder(tmp_path / "vaswani")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_collection("vaswani"), BeirCollection)
