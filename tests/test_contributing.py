"""CONTRIBUTING.md tells the truth: each hop of its walks exists, and its example of an engine runs."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_rescale import open_index
from pyterrier_rescale.indexing.engines import ENGINES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = [" ".join(walk.split()) for walk in TEXT.split("## Five walks")[1].split("\n## ")[0].split("\n- ")[1:]]


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.split("?")[0].strip("* "))
def test_every_hop_of_a_walk_exists(walk):
    """Each file is there, and holds each name (or line of code) that follows it, up to the next file."""
    hops, source = 0, ""
    for quoted in re.findall(r"`([^`]+)`", walk):
        if quoted.endswith(".py"):
            source = " ".join((ROOT / "pyterrier_rescale" / quoted).read_text(encoding="utf-8").split())
            hops += 1
        else:
            name = re.escape(quoted)
            found = re.search(rf"(def|class) {name}\b", source) if quoted.isidentifier() else quoted in source
            assert found, f"{quoted} is not in the file before it: {walk}"
    assert hops


def test_there_are_five_walks_and_the_rooms_of_the_picture():
    assert len(WALKS) == 5
    rooms = re.findall(r"^  (\w+)/ +(?:(\w+)/  )?", TEXT.split("```")[1], re.M)
    assert {name for line in rooms for name in line if name} == {
        path.name for path in (ROOT / "pyterrier_rescale").iterdir() if (path / "__init__.py").is_file()
    }


def test_the_example_of_an_engine_ranks_as_the_exact_one(tmp_path, monkeypatch):
    scope = {"__name__": "example"}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.S).group(1), scope)
    docs = [
        {"docno": "a", "toks": {"x": 120, "y": 30}},
        {"docno": "b", "toks": {"y": 250}},
        {"docno": "c", "toks": {"z": 9}},
    ]
    queries = pd.DataFrame({"qid": ["1", "2"], "query_toks": [{"x": 1.5, "y": 0.5}, {"z": 2.0, "unknown": 1.0}]})
    monkeypatch.setitem(ENGINES, "json", ENGINES.pop("json"))  # gone with the test
    own = open_index(tmp_path / "json", "json")
    results = own.indexer().index(docs).retriever()(queries)
    truth = open_index(tmp_path / "exact", "exact").indexer().index(docs).retriever()(queries)
    pd.testing.assert_frame_equal(results, truth)
    assert len(truth) == 3 and own.built and own.stats()["postings"] == 4
    again = open_index(tmp_path / "json").retriever(1)(queries)
    assert again["docno"].tolist() == ["a", "c"]
