"""NaN and infinity, in loss, gradients and weights: the step is not made, the weights stay, nothing broken is saved."""

from __future__ import annotations

import pytest
import tiny
import torch
from test_run import FAST, PAIRS, log_of, weights_of

from pyterrier_rescale import CollapseError, Splade, train
from pyterrier_rescale.training.callbacks import Bookkeeper
from pyterrier_rescale.training.losses import Objective
from pyterrier_rescale.training.trainer import Trainer

WARN = {**FAST, "monitor": "warn", "warmup_steps": 0}


class Poison:
    """Spoils one step, and notes the weights before and after every step."""

    def __init__(self, monkeypatch, where, value, step=3, accumulation=1):
        self.step, self.value, self.calls, self.before, self.after = step, value, 0, {}, {}
        forward, begin, end = Objective.forward, Bookkeeper.on_pre_optimizer_step, Bookkeeper.on_step_end

        def spoiled(objective, model, batch, step):
            loss = forward(objective, model, batch, step)
            self.calls += 1
            if where == "loss" and self.calls == (self.step - 1) * accumulation + 1:
                objective.parts[-1].ranking = objective.parts[-1].ranking * value
                loss = loss * value
            return loss

        def on_pre_optimizer_step(book, args, state, control, **rest):
            if where == "gradient" and state.global_step + 1 == self.step:
                next(book.module.parameters()).grad.flatten()[3] = value
            if where == "shown loss" and state.global_step + 1 == self.step:
                book.parts[-1].ranking = book.parts[-1].ranking * value  # the gradient is finite
            if where == "weights" and state.global_step + 1 == self.step:
                next(book.module.parameters()).data.flatten()[3] = value
            self.before[state.global_step + 1] = self.copy(book.module)
            begin(book, args, state, control, **rest)

        def on_step_end(book, args, state, control, **rest):
            self.after[state.global_step] = self.copy(book.module)
            end(book, args, state, control, **rest)

        monkeypatch.setattr(Objective, "forward", spoiled)
        monkeypatch.setattr(Bookkeeper, "on_pre_optimizer_step", on_pre_optimizer_step)
        monkeypatch.setattr(Bookkeeper, "on_step_end", on_step_end)

    @staticmethod
    def copy(module):
        return {name: value.detach().clone() for name, value in module.named_parameters()}

    def moved(self, step):
        before, after = self.before[step], self.after[step]
        return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["loss", "gradient", "shown loss"])
def test_the_step_is_left_out_and_the_folder_can_be_loaded(where, value, bert_folder, tmp_path, monkeypatch):
    poison = Poison(monkeypatch, where, value)
    with pytest.warns(UserWarning, match="1 of 6 steps were left out") as told:
        train(bert_folder, PAIRS, tmp_path / "out", **WARN)
    assert any("the weights before this step are kept" in str(one.message) for one in told)
    assert [poison.moved(step) for step in range(1, 7)] == [True, True, False, True, True, True]
    assert [row["finite"] for row in log_of(tmp_path / "out")] == [1, 1, 0, 1, 1, 1]
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "out").values())
    assert Splade(tmp_path / "out").encode_docs(["a text"]).shape[0] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation": 2},
        {"bf16": True, "device": "cpu"},
        {"mini_batch_size": 2},
        {"queries": "static"},
        {"rescale": "learned"},
        {"monitor": False},
        {"log_steps": 100},
        {"max_grad_norm": 0.0, "weight_decay": 0.5},
    ],
)
def test_under_other_options(options, bert_folder, tmp_path, monkeypatch):
    poison = Poison(monkeypatch, "loss", float("nan"), accumulation=options.get("gradient_accumulation", 1))
    with pytest.warns(UserWarning, match="1 of 6 steps were left out"):
        train(bert_folder, PAIRS, tmp_path / "out", **{**WARN, **options})
    assert [poison.moved(step) for step in range(1, 7)] == [True, True, False, True, True, True]
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "out").values())


@pytest.mark.parametrize("monitor", [True, "warn", False])
def test_broken_weights_are_never_saved(monitor, bert_folder, tmp_path, monkeypatch):
    Poison(monkeypatch, "weights", float("nan"), step=6)
    with pytest.raises(CollapseError, match="step 6: weights are not finite: mlm.bert.emb.*not saved"):
        train(bert_folder, PAIRS, tmp_path / "out", **{**FAST, "monitor": monitor})
    assert not (tmp_path / "out" / "modules.json").exists()


def test_a_learning_rate_that_blows_the_weights_up(bert_folder, tmp_path):
    with pytest.raises(CollapseError):
        train(bert_folder, PAIRS, tmp_path / "out", **{**WARN, "learning_rate": 1e39, "save_steps": 1})
    assert not (tmp_path / "out" / "modules.json").exists()
    assert not list((tmp_path / "out").glob("checkpoints/*/module.pt"))


def test_a_run_without_one_good_step_is_not_saved(bert_folder, tmp_path, monkeypatch):
    forward = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda *args: forward(*args) * float("nan"))
    with pytest.warns(UserWarning), pytest.raises(CollapseError, match="6 of 6 steps were left out.*nothing is saved"):
        train(bert_folder, PAIRS, tmp_path / "out", **WARN)
    assert not (tmp_path / "out" / "modules.json").exists()


def test_resumed_after_a_step_was_left_out(bert_folder, tmp_path, monkeypatch):
    options = {**WARN, "save_steps": 4}
    with monkeypatch.context() as patch:
        Poison(patch, "gradient", float("nan"))
        spoiled = Bookkeeper.on_pre_optimizer_step

        def interrupted(self, args, state, control, **rest):
            if state.global_step == 5:
                raise KeyboardInterrupt
            spoiled(self, args, state, control, **rest)

        patch.setattr(Bookkeeper, "on_pre_optimizer_step", interrupted)
        with pytest.warns(UserWarning, match="not finite"), pytest.raises(KeyboardInterrupt):
            train(bert_folder, PAIRS, tmp_path / "out", **options)
    train(bert_folder, PAIRS, tmp_path / "out", resume=True, **options)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "out").values())
    assert [row["finite"] for row in log_of(tmp_path / "out")] == [1, 1, 0, 1, 1, 1]


def test_a_checkpoint_that_is_broken_is_named(bert_folder, tmp_path, monkeypatch):
    def spoiled(self, output_dir=None, state_dict=None):
        self.module.head.weight.data[0, 0] = float("nan")
        save(self, output_dir, state_dict)
        raise KeyboardInterrupt

    save = Trainer._save
    options = {**FAST, "save_steps": 2}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_save", spoiled)
        train(bert_folder, PAIRS, tmp_path / "out", **options)
    (tmp_path / "out" / "checkpoints" / "checkpoint-2" / "complete").touch()
    with pytest.raises(ValueError, match=r"checkpoint-2' holds weights that are not finite .*overwrite=True"):
        train(bert_folder, PAIRS, tmp_path / "out", resume=True, **options)


def test_a_backbone_with_a_broken_row_is_refused_at_once(tmp_path):
    model, tokenizer = tiny.build("bert")
    with torch.no_grad():  # of a token that the check of the head does not see
        model.bert.embeddings.position_embeddings.weight[60, 0] = float("inf")
    with pytest.raises(ValueError, match="backbone holds NaN or infinity in bert.embeddings.position"):
        train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, **FAST)
