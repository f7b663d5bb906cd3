"""Whatever activations are kept, a step's numbers are the same, dropout included."""

from __future__ import annotations

import pytest
import tiny
import torch

from pyterrier_rescale import train
from pyterrier_rescale.training import run as training_run
from pyterrier_rescale.training.activations import KEPT, keeping, layers
from pyterrier_rescale.training.callbacks import Bookkeeper
from pyterrier_rescale.training.model import SparseHead

PAIRS = [(" ".join(text.split()[:3]), text) for text in tiny.TEXTS]
OPTIONS = {"batch_size": 4, "max_steps": 8, "learning_rate": 1e-3, "max_length": 32, "ramp_steps": 100,
           "verbose": False, "save_steps": 3}  # fmt: skip


def step(model, tokenizer, kept):
    """Gradients of one step with dropout, and the random state behind it."""
    module = SparseHead(model.train(), tokenizer, max_length=64)
    module.kept = kept
    model.zero_grad()
    torch.manual_seed(5)
    sides = [module.tokenise(tiny.TEXTS[:4], 64), module.tokenise(tiny.TEXTS[4:], 64)]
    vectors = module({"sides": sides})["sentence_embeddings"]
    sum(part.square().sum() for part in vectors).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return gradients, torch.get_rng_state()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_are_the_same_numbers(family):
    model, tokenizer = tiny.build(family)
    expected, state = step(model, tokenizer, "all")
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    for kept in ("products", "inputs"):
        gradients, behind = step(model, tokenizer, kept)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.equal(gradients[name], gradient), f"{kept}: {name}"
        assert torch.equal(behind, state), kept


def test_what_is_computed_again(monkeypatch):
    """The activation function of a layer for both, its products for "inputs" alone."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **(kwargs or {}))

    model, _ = tiny.build("bert", num_hidden_layers=3, attention_probs_dropout_prob=0.0)
    ids = torch.arange(5, 15)[None]
    counts = {}
    for kept in KEPT:
        with keeping(model, kept):
            hidden = model.train().bert(input_ids=ids).last_hidden_state
        calls: dict[str, int] = {}
        with Count():
            hidden.sum().backward()
        counts[kept] = calls.get("gelu", 0), calls.get("addmm", 0)
    # a layer of BERT has six products with weights
    assert counts == {"all": (0, 0), "products": (3, 0), "inputs": (3, 18)}


def test_layers_get_their_own_forward_back():
    model, _ = tiny.build("bert")
    first, second = layers(model)
    own = second.forward = lambda *args, **kwargs: type(second).forward(second, *args, **kwargs)
    with pytest.raises(KeyError), keeping(model, "inputs"):
        assert "forward" in first.__dict__ and second.forward is not own
        raise KeyError
    assert "forward" not in first.__dict__ and second.forward is own
    with torch.no_grad(), keeping(model, "inputs"):
        assert second.forward is own  # nothing is kept anyway


def test_layers_are_the_outermost_lists():
    inner = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    outer = torch.nn.ModuleList([torch.nn.Sequential(inner), torch.nn.Linear(2, 2)])
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(outer))
    assert layers(model) == list(outer)
    assert layers(torch.nn.Linear(2, 2)) == []


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_run_may_go_on_with_another_choice(bert_folder, tmp_path, monkeypatch):
    """Trained weights are the same numbers, also of a run that broke off and is resumed with less or more memory."""
    for kept in KEPT:
        train(bert_folder, PAIRS, tmp_path / kept, activations=kept, **OPTIONS)
        assert f"backward pass: {kept}.\n" in (tmp_path / kept / "README.md").read_text()
    end = Bookkeeper.on_step_end

    def broken(self, args, state, control, **rest):
        end(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bookkeeper, "on_step_end", broken)
        train(bert_folder, PAIRS, tmp_path / "resumed", activations="inputs", **OPTIONS)
    assert list((tmp_path / "resumed" / "checkpoints").glob("checkpoint-3"))
    train(bert_folder, PAIRS, tmp_path / "resumed", activations="all", resume=True, **OPTIONS)
    expected = weights_of(tmp_path / "all")
    for name in ("products", "inputs", "resumed"):
        weights = weights_of(tmp_path / name)
        assert all(torch.equal(weights[part], value) for part, value in expected.items()), name


def test_little_memory_changes_no_number(bert_folder, tmp_path, monkeypatch):
    from pyterrier_rescale.training import memory_plan

    train(bert_folder, PAIRS, tmp_path / "much", **OPTIONS)
    monkeypatch.setattr(memory_plan, "free_memory", lambda: 1000)
    with pytest.warns(UserWarning, match=r"needs some 0\.0 GB at least, and 0\.0 GB are free: choose a smaller"):
        train(bert_folder, PAIRS, tmp_path / "little", **OPTIONS)
    assert "backward pass: all.\n" in (tmp_path / "much" / "README.md").read_text()
    assert "backward pass: inputs.\n" in (tmp_path / "little" / "README.md").read_text()
    much, little = weights_of(tmp_path / "much"), weights_of(tmp_path / "little")
    assert all(torch.equal(little[name], value) for name, value in much.items())


def test_the_optimizers_memory_ends_with_training(bert_folder, tmp_path, monkeypatch):
    """What is loaded and saved behind the last step does not come on top of it."""
    kept = []
    monkeypatch.setattr(training_run, "save_encoder", lambda folder, model, *_, **__: kept.append(model))
    monkeypatch.setattr("pyterrier_rescale.splade.Splade", lambda *_, **__: None)
    states = []
    monkeypatch.setattr(torch.optim.AdamW, "__init__", _noting(torch.optim.AdamW.__init__, states))
    train(bert_folder, PAIRS, tmp_path / "out", **OPTIONS)
    assert len(states) == 1 and not states[0].state
    assert all(parameter.grad is None for parameter in kept[0].parameters())


def _noting(init, made):
    def noted(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    return noted
