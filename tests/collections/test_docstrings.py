from __future__ import annotations

import sys

import pytest

from pyterrier_rescale.collections import docstrings
from pyterrier_rescale.collections.docstrings import docstring_collection, known_items, normalise

BODY = (
    "The rows are taken in turn and each of them is added to the sum with number {0} "
    "until nothing is left of word{0} and other{0}."
)


def rows(*bodies):
    return [(f"package.module.thing{i}", f"Compute the famous number {i}.\n\n{body}") for i, body in enumerate(bodies)]


def test_one_relevant_document_per_topic():
    collection = known_items(rows(*(BODY.format(i) for i in range(200))))
    docs = {doc["docno"]: doc for doc in collection.corpus()}
    assert len(docs) == 200 and collection.splits == ("train", "dev", "test")
    assert docs["thing7-vyysbykc4"]["name"] == "package.module.thing7"  # pinned: the same on every machine
    assert docs["thing7-vyysbykc4"]["text"] == BODY.format(7)
    assert all(len(docno) <= 20 for docno in docs)
    seen = []
    for split in collection.splits:
        topics, qrels = collection.topics(split), collection.qrels(split)
        assert list(topics["qid"]) == list(qrels["qid"]) and set(qrels["label"]) == {1}
        seen += list(qrels["docno"])
        for query, docno in zip(topics["query"], qrels["docno"], strict=True):
            assert query == f"Compute the famous number {docs[docno]['name'].removeprefix('package.module.thing')}."
    assert sorted(seen) == sorted(docs), "every document is in one split"
    assert 160 <= len(collection.topics("train")) <= 195


LEFT_OUT = {
    "same name again": ("package.module.thing0", f"Compute another number.\n\n{BODY.format('x')}"),
    "near-duplicate": ("package.d", f"Compute a very different number.\n\n{BODY.format(0)}\nOnce more."),
    "repeats its summary": ("package.e", f"Compute one new number.\n\n{BODY.format('x')} compute one new, number."),
}


@pytest.mark.parametrize("extra", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_left_out(extra):
    good = ("package.good", f"Compute a very different number.\n\n{BODY.format('x')}")
    assert len(list(known_items([*rows(*(BODY.format(i) for i in range(3))), good]).corpus())) == 4
    collection = known_items([*rows(*(BODY.format(i) for i in range(3))), extra])
    assert [doc["name"] for doc in collection.corpus()] == [f"package.module.thing{i}" for i in range(3)]


def test_docstrings_are_read_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "trap_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""The package."""\nraise RuntimeError("imported")\n')
    (package / "part.py").write_text(
        'class A:\n    """A class."""\n    def f(self):\n        """A method."""\n'
        '        def g():\n            """Inner."""\n'
        'if True:\n    async def h():\n        """Conditional."""\n'
    )
    (package / "broken.py").write_text('"""Broken."""\ndef (:\n')
    (package / "tests" / "test_a.py").write_text('"""A test."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(docstrings.read_docstrings(["trap_package"])) == [
        ("trap_package", "The package."),
        ("trap_package.part.A", "A class."),
        ("trap_package.part.A.f", "A method."),
        ("trap_package.part.h", "Conditional."),
    ]
    assert "trap_package" not in sys.modules


def test_built_from_a_package_and_cached(tmp_path, monkeypatch):
    import jinja2

    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path))
    built = docstring_collection(["jinja2"])
    assert built.name == "docstrings" and 50 < sum(1 for _ in built.corpus()) < 500
    doc = next(doc for doc in built.corpus() if doc["name"] == "jinja2.environment.Environment.make_globals")
    summary, _, rest = normalise(jinja2.Environment.make_globals.__doc__).partition(" any given template ")
    assert normalise(doc["text"])[:40] == f"any given template {rest}"[:40]
    topics = [built.topics(split).merge(built.qrels(split)) for split in built.splits]
    (query,) = [row.query for split in topics for row in split.itertuples() if row.docno == doc["docno"]]
    assert normalise(query) == summary

    monkeypatch.setattr(docstrings, "read_docstrings", None)  # not called again
    again = docstring_collection(["jinja2"])
    assert list(again.corpus()) == list(built.corpus())
    assert again.train_pairs() == built.train_pairs() and len(built.train_pairs()) > 40
    monkeypatch.setattr(docstrings, "versions", lambda: {"python": "3", "jinja2": "0.0.1"})
    with pytest.raises(TypeError):  # another version, another folder
        docstring_collection(["jinja2"])
    assert len(list((tmp_path / "collections").iterdir())) == 1
