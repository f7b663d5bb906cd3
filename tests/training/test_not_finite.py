"""NaN and infinity, in loss, gradients and weights: the step is not made, the weights stay, nothing broken is saved."""

from __future__ import annotations

import pytest
import tiny
import torch
from test_run import FAST, PAIRS, log_of, weights_of

from pyterrier_rescale import CollapseError, Splade, train
from pyterrier_rescale.training import fit
from pyterrier_rescale.training.losses import Objective
from pyterrier_rescale.training.monitor import Monitor

NAN = float("nan")
WARN = {**FAST, "monitor": "warn", "warmup_steps": 0}


class Poison:
    """Spoils one step, and notes the weights before every step and behind the last."""

    def __init__(self, monkeypatch, where, value, step=3, accumulation=1):
        self.calls, self.states = 0, []
        forward, clip, look, close = Objective.forward, fit.clip_grad_norm_, Monitor.look, Monitor.close

        def spoiled(objective, *arguments):
            loss, parts = forward(objective, *arguments)
            self.calls += 1
            if where in ("loss", "shown loss") and self.calls == (step - 1) * accumulation + 1:
                parts = parts._replace(losses=parts.losses * value)
                loss = loss if where == "shown loss" else loss * value  # the gradient is finite
            return loss, parts

        def clipped(parameters, max_norm):
            parameters = list(parameters)
            if where in ("gradient", "weights") and self.calls == step:
                (parameters[0].grad if where == "gradient" else parameters[0].data).flatten()[3] = value
            return clip(parameters, max_norm)

        def looked(monitor, *arguments):
            self.states.append(self.copy(monitor.module))
            return look(monitor, *arguments)

        def closed(monitor):
            self.states.append(self.copy(monitor.module))
            close(monitor)

        monkeypatch.setattr(Objective, "forward", spoiled)
        monkeypatch.setattr(fit, "clip_grad_norm_", clipped)
        monkeypatch.setattr(Monitor, "look", looked)
        monkeypatch.setattr(Monitor, "close", closed)

    @staticmethod
    def copy(module):
        return {name: value.detach().clone() for name, value in module.named_parameters()}

    def moved(self, step):
        before, after = self.states[step - 1 : step + 1]
        return any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("where", "value", "options"),
    [
        *((where, value, {}) for where in ("loss", "gradient", "shown loss") for value in (NAN, float("-inf"))),
        *(("loss", NAN, options) for options in (
            {"gradient_accumulation": 2}, {"bf16": True, "device": "cpu"}, {"mini_batch_size": 2}, {"monitor": False},
            {"rescale": "learned"}, {"queries": "static"}, {"log_steps": 100}, {"max_grad_norm": 0},
        )),
    ],
)  # fmt: skip
def test_the_step_is_left_out_and_the_folder_can_be_loaded(where, value, options, bert_folder, tmp_path, monkeypatch):
    poison = Poison(monkeypatch, where, value, accumulation=options.get("gradient_accumulation", 1))
    with pytest.warns(UserWarning, match="1 of 6 steps were left out") as told:
        train(bert_folder, PAIRS, tmp_path / "out", **{**WARN, **options})
    assert any("the weights before this step are kept" in str(one.message) for one in told) or "monitor" in options
    assert [poison.moved(step) for step in range(1, 7)] == [True, True, False, True, True, True]
    assert [row["step"] for row in log_of(tmp_path / "out") if not row["finite"]] == [3]
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "out").values())
    assert Splade(tmp_path / "out").encode_docs(["a text"]).shape[0] == 1


@pytest.mark.parametrize("monitor", [True, "warn", False])
def test_a_run_that_goes_wrong_saves_nothing(monitor, bert_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Poison(patch, "weights", NAN, step=6)
        with pytest.raises(CollapseError, match="step 6: weights are not finite: mlm.bert.emb"):
            train(bert_folder, PAIRS, tmp_path / "last", **{**FAST, "monitor": monitor})
    with pytest.raises(CollapseError):
        train(bert_folder, PAIRS, tmp_path / "out", **{**WARN, "learning_rate": 1e39, "save_steps": 1})
    forward = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda *args: (forward(*args)[0] * float("nan"), forward(*args)[1]))
    with pytest.raises(CollapseError, match="not finite"):
        train(bert_folder, PAIRS, tmp_path / "two", **{**WARN, "monitor": monitor})
    assert not [*tmp_path.rglob("modules.json"), *tmp_path.rglob("*.pt")]


def test_a_backbone_with_a_broken_row_is_refused_at_once(tmp_path):
    model, tokenizer = tiny.build("bert")
    with torch.no_grad():  # of a token that the check of the head does not see
        model.bert.embeddings.position_embeddings.weight[60, 0] = float("inf")
    with pytest.raises(ValueError, match="backbone holds NaN or infinity in bert.embeddings.position"):
        train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, **FAST)
