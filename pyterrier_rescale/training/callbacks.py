"""The callback between the loop and everything that watches it (clipping, log, verdicts, progress), and checkpoints."""

from __future__ import annotations

import math
import re
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .._utils.durable import settle, sync
from .._utils.progress import progress_bar
from .config import TrainConfig
from .distributed import batch_mean, world
from .losses import StepParts
from .model import SparseHead
from .monitor import COLUMNS, CollapseError, Judge, Log, measure

if TYPE_CHECKING:
    from .dev_evaluation import DevWatch

# Rows of W whose norms are followed: enough for a mean, at no cost.
_SAMPLED_ROWS = 1024
# Written last into a checkpoint, so that its presence marks a whole checkpoint.
_MARK = "complete"
_NAME = re.compile(r"checkpoint-(\d+)")

class Bookkeeper(TrainerCallback):
    """Watches every step: ``log_path`` is that of ``monitor.csv``, ``watch`` scores the run on a dev split."""

    def __init__(
        self, config: TrainConfig, module: SparseHead, log_path: Path, *, watch: DevWatch | None, verbose: bool
    ) -> None:
        self.config, self.module, self.log_path, self.verbose = config, module, log_path, verbose
        self.watch = watch
        self.main = world()[0] == 0
        self.judge = Judge(module.term_count, config.ramp_steps)
        self.parts: list[StepParts] = []  # the objective's list, set by train
        self.report: Any = None  # the trainer's log method, where somebody listens
        self._log: Log | None = None
        self._bar: Any = None
        self._row: dict[str, Any] = {}
        self._warned: set[str] = set()
        self.left_out = 0  # steps whose loss or gradient was not finite

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the log and the bar."""
        self._started = time.perf_counter()
        self.judge.warmup_steps = args.get_warmup_steps(state.max_steps)
        if not self.main:
            return
        self._log = Log(self.log_path, COLUMNS, state.global_step)
        if self.verbose:
            kept = self.module.kept
            what = "training" if kept == "all" else f"training ({kept} kept)"
            self._bar = progress_bar(total=state.max_steps, initial=state.global_step, desc=what, unit="step")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Clip the gradient, note the figures, and stop or leave out a step that would destroy the weights."""
        step = state.global_step + 1
        norm = clip_gradient(self.module, self.config.max_grad_norm)
        logged = step % self.config.log_steps == 0 or step == state.max_steps or step == 1
        # over micro-batches and processes, so that all leave out the same steps
        parts = [torch.stack([p.ranking, p.query_penalty, p.document_penalty]).float() for p in self.parts]
        losses = batch_mean(torch.stack(parts)).tolist()
        finite = all(map(math.isfinite, (norm, *losses)))
        if logged or not finite:
            row = self._figures(step, norm, losses, optimizer)
            finite = finite and bool(row["finite"])
            if self.config.monitor:
                self._verdict(self.judge(row))
            self._row = row
        else:
            self._row = {}
        if not finite:
            self._check_weights(step)
            self.left_out += 1
            for parameter in self.module.parameters():
                parameter.grad = None  # which moves no weight, not even by momentum or decay
        self.parts.clear()

    def _figures(self, step: int, norm: float, losses: list[float], optimizer: Any) -> dict[str, Any]:
        parts = self.parts[-1]
        row: dict[str, Any] = measure(parts, self.config.temperature)
        row.update(zip(("ranking", "penalty_q", "penalty_d"), losses, strict=True))
        lambda_q, lambda_d = self.config.query_lambda * parts.share, self.config.lambda_d * parts.share
        penalty = lambda_q * row["penalty_q"] + lambda_d * row["penalty_d"]
        loss = row["ranking"] + penalty
        weight = self.module.head.weight.detach()
        rows = weight[:: max(1, len(weight) // _SAMPLED_ROWS)].float()
        log_k = self.module.log_k
        k = 1.0 if log_k is None else math.exp(float(log_k.detach()))
        row.update(
            step=step,
            loss=loss,
            lambda_q=lambda_q,
            lambda_d=lambda_d,
            regularizer_share=penalty / loss if loss else 0.0,
            grad_norm=norm,
            head_norm=float(torch.linalg.vector_norm(rows, dim=1).mean()) / k,
            finite=int(all(map(math.isfinite, (loss, norm)))),
            lr=float(optimizer.param_groups[0]["lr"]),
            k=k,
            seconds=time.perf_counter() - self._started,
        )
        if self._log is not None:
            self._log.write(row)
        return row

    def _verdict(self, verdict: CollapseError | None) -> None:
        if verdict is None:
            return
        if self.config.monitor == "warn":
            if verdict.verdict not in self._warned:
                self._warned.add(verdict.verdict)
                warnings.warn(str(verdict), stacklevel=2)
            return
        raise verdict

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar, report, and ask for checkpoints."""
        row = self._row
        if self._bar is not None:
            self._bar.update()
            if row:
                self._bar.set_postfix_str(
                    f"loss {row['loss']:.3g}, active q/d {row['active_q']:.0f}/{row['active_d']:.0f}, "
                    f"score std {row['score_std']:.3g}",
                    refresh=False,
                )
        if self.report is not None and row:
            self.report({name: value for name, value in row.items() if name != "step"})
        every, step, last = self.config.save_steps, state.global_step, state.max_steps
        watched = self.watch is not None and self.watch.due(step, last)
        control.should_save = bool(every) and step % every == 0 and step < last
        if watched or control.should_save or step == last:
            self._check_weights(step)
        if step == last and self.left_out:
            self._tell_left_out(step)
        if watched and self.main:
            self.watch(self.module, step)

    def _check_weights(self, step: int) -> None:
        """Raise :class:`CollapseError` where nothing can become of the weights, before they are scored or saved."""
        broken = not_finite(self.module)
        if broken:
            raise CollapseError(
                "nan", step,
                f"step {step}: weights are not finite: {broken}; they are not saved. Lower learning_rate, or set "
                "max_grad_norm",
            )  # fmt: skip

    def _tell_left_out(self, step: int) -> None:
        told = f"{self.left_out} of {step} steps were left out, as their loss or gradient was not finite"
        if self.left_out == step:
            raise CollapseError("nan", step, f"{told}: nothing was learnt, and nothing is saved")
        warnings.warn(told, stacklevel=2)

    def close(self) -> None:
        """Close log and bar, however the run ended."""
        if self._log is not None:
            self._log.close()
        if self._bar is not None:
            self._bar.close()


@torch.no_grad()
def not_finite(module: torch.nn.Module) -> str:
    """Names of parameters that hold NaN or infinity, at most three; empty where all are finite."""
    names = [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def clip_gradient(module: torch.nn.Module, max_norm: float) -> float:
    """Scale the gradient down to ``max_norm`` (0: leave it) and return its norm before."""
    norm = get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    if max_norm and norm > max_norm:  # no pass over all gradients where there is nothing to do
        clip_grads_with_norm_(module.parameters(), max_norm, norm)
    return float(norm)


def whole_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and (path / _MARK).exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint; broken ones are removed."""
    whole = whole_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)
    return whole[-1] if whole else None


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, once all of it is on the disk, and remove older ones."""
    settle(checkpoint)
    (checkpoint / _MARK).write_text("", encoding="utf-8")
    sync(checkpoint)
    sync(checkpoint.parent)
    for older in whole_checkpoints(checkpoint.parent):
        if older != checkpoint:
            shutil.rmtree(older, ignore_errors=True)
