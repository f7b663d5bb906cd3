"""The choice of what is kept, over given numbers, and the numbers by hand."""

from __future__ import annotations

import pytest
import tiny
import torch

from pyterrier_rescale.training import memory_plan
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.data.loading import load_rows
from pyterrier_rescale.training.memory_plan import choose, first_that_fits, kept_bytes, step_bytes
from pyterrier_rescale.training.model import SparseHead

ROWS = load_rows([("a query", text) for text in tiny.TEXTS])
NEEDS = {"all": 900, "products": 500, "inputs": 200}


@pytest.mark.parametrize(
    ("free", "kept"), [(901, "all"), (900, "all"), (899, "products"), (500, "products"), (499, "inputs")]
)
def test_the_first_that_fits(free, kept):
    assert first_that_fits(NEEDS, free) == kept


def test_the_last_with_a_warning():
    needs = {name: need * 10**7 for name, need in NEEDS.items()}
    with pytest.warns(UserWarning, match=r"needs some 2\.0 GB at least, and 1\.5 GB are free: .* mini_batch_size"):
        assert first_that_fits(needs, 15 * 10**8) == "inputs"


class Body(torch.nn.Module):
    """exp keeps its result, the square the same again, dropout's product its noise."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 7)

    def hidden(self, ids, mask):
        states = self.table(ids).exp().square()
        return torch.nn.functional.dropout(states, 0.5, self.training)


def test_bytes_of_a_body_by_hand():
    body = Body().eval()
    state = torch.get_rng_state()
    # 10 ids of 8 bytes, and two matrices of 10 x 7 numbers of 4
    assert kept_bytes(body, torch.arange(10)) == 10 * 8 + 2 * 10 * 7 * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert not body.training


@pytest.fixture
def module():
    return SparseHead(*tiny.build("bert"), max_length=64)


def test_bytes_of_a_step_by_hand(module, monkeypatch):
    monkeypatch.setattr(memory_plan, "kept_bytes", lambda module, ids: 1000 * len(ids))
    module.tokenise = lambda texts, limit: {
        "input_ids": torch.zeros(len(texts), limit, dtype=torch.long),
        "attention_mask": (torch.arange(limit) < (limit if limit == 60 else 4)).long().expand(len(texts), limit),
    }
    config = TrainConfig(batch_size=5, max_length=60, query_max_length=20)
    weights = sum(parameter.numel() for parameter in module.parameters())
    size = module.get_embedding_dimension()
    # five documents of 60 tokens and five queries of four
    fixed, body = 4 * (3 * weights + 6 * 10 * size), 1000 * (5 * 60 + 5 * 4)
    expected = {"all": fixed + 1.2 * body, "products": fixed + 0.65 * body, "inputs": fixed + 0.25 * body}
    assert step_bytes(module, ROWS, 0, config, copies=3) == pytest.approx(expected, abs=1)
    static = TrainConfig(batch_size=5, max_length=60, queries="static")
    assert step_bytes(module, ROWS, 0, static, copies=3)["all"] == pytest.approx(fixed + 1200 * 5 * 60, abs=1)


def test_what_was_asked_for_is_kept(module, monkeypatch):
    def never():
        raise AssertionError("the free memory does not matter")

    monkeypatch.setattr(memory_plan, "free_memory", never)
    for kept in ("all", "products", "inputs"):
        assert choose(module, ROWS, 0, TrainConfig(activations=kept), copies=3) == kept
    assert choose(module, ROWS, 0, TrainConfig(mini_batch_size=2), copies=3) == "all"
    with pytest.raises(ValueError, match="activations must be 'auto' or 'all' with mini_batch_size=2"):
        TrainConfig(mini_batch_size=2, activations="inputs")
    with pytest.raises(ValueError, match="activations must be one of all, auto, inputs, products, got 'some'"):
        TrainConfig(activations="some")


def test_choice_by_free_memory(module, monkeypatch):
    config = TrainConfig(max_length=64)
    needs = step_bytes(module, ROWS, 0, config, copies=3)
    assert needs["all"] > needs["products"] > needs["inputs"] > 0
    for kept, need in needs.items():
        monkeypatch.setattr(memory_plan, "free_memory", lambda need=need: int(need / 0.9) + 2)
        assert choose(module, ROWS, 0, config, copies=3) == kept
    monkeypatch.setattr(memory_plan, "free_memory", lambda: int(needs["all"] / 0.9) + 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # which share it
    assert choose(module, ROWS, 0, config, copies=3) != "all"


def test_a_model_without_layers_keeps_all(module):
    module.mlm = torch.nn.Linear(2, 2)
    assert choose(module, ROWS, 0, TrainConfig(), copies=3) == "all"
    with pytest.raises(ValueError, match="activations must be 'all' for Linear, which has no list of layers"):
        choose(module, ROWS, 0, TrainConfig(activations="inputs"), copies=3)
