"""Hard negatives by BM25."""

from __future__ import annotations

import warnings

import pytest
import tiny

from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.fit import Batches
from pyterrier_rescale.training.loading import load_rows
from pyterrier_rescale.training.model import SparseHead
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


def test_a_querys_own_text_is_no_negative_of_it():
    """Duplicate questions, both ways round: BM25 finds the query itself first, and in a batch it is a document."""
    pairs = [("how do solar panels work", "what makes a solar panel work"), ("who feeds a cat", "who gives a cat food"),
             ("is salt a storage", "can salt store energy"), ("where do zebras live", "home of the zebra")]  # fmt: skip
    rows = load_rows([*pairs, *((b, a) for a, b in pairs)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not any(row.query in row.documents for row in mine_negatives(rows, 2))
    batches = Batches(rows, SparseHead(*tiny.build("bert")), TrainConfig(max_length=16), 0)
    sides, targets = batches.collate(list(rows))
    left_out = (targets.document_ids[None, :, None] == targets.positives[:, None, :]).any(dim=-1)
    # query i is the text of document i + 4, its positive is document i
    assert left_out.tolist() == [[j in (i, (i + 4) % 8) for j in range(8)] for i in range(8)]
