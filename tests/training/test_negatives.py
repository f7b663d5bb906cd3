"""Hard negatives by BM25."""

from __future__ import annotations

import pytest

from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.data.rows import load_rows
from pyterrier_rescale.training.negatives import mine_negatives

PAIRS = [
    ("solar panels", "panels that turn solar light into power"),
    ("solar energy", "solar energy storage in salt"),
    ("cat food", "what a cat eats"),
    ("cat toys", "toys for a bored cat"),
    ("zebra", "striped horses of the savanna"),
]


def test_best_by_bm25_that_is_not_relevant():
    with pytest.warns(UserWarning, match="1 of 5 are random documents"):
        rows = mine_negatives(load_rows(PAIRS), 1)
    found = {row.query: row.documents for row in rows}
    for query, positive in PAIRS:
        assert found[query][0] == positive
    assert found["solar panels"][1] == PAIRS[1][1]
    assert found["solar energy"][1] == PAIRS[0][1]
    assert found["cat food"][1] == PAIRS[3][1]
    assert found["zebra"][1] != PAIRS[4][1]
    with pytest.raises(ValueError, match="mine_negatives must be at most 4"):
        mine_negatives(load_rows(PAIRS), 5)
    with pytest.raises(ValueError, match="mine_negatives has no teacher scores"):
        TrainConfig(loss="kl", mine_negatives=2)
