"""What a run looks like from outside: one row per step, and verdicts that stop a collapsed run with a remedy."""

from __future__ import annotations

import csv
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from .._utils.checks import warn
from .._utils.files import write_whole
from .._utils.progress import progress_bar
from .config import TrainConfig
from .distributed import batch_mean, world
from .losses import StepParts
from .model import SparseHead

#: Name of the log in the output folder.
LOG_FILE = "monitor.csv"
# Rows of W whose norms are followed, enough for a mean.
_SAMPLED_ROWS = 1024
# Loss in units of chance above which scores are larger than the softmax can use.
_SATURATED = 2.0
# What is wrong, and what to do, by verdict.
_REMEDIES = {
    "nan": "the weights before this step are kept. Look for broken values in the backbone or teacher scores, or lower "
    "learning_rate; in bf16 try without",
    "zero": "vectors are empty ({active_q:.1f} active terms per query, {active_d:.1f} per document): the regulariser "
    "outran the ranking loss; lower lambda_q and lambda_d, or lengthen ramp_steps",
    "zero from the start": "no term has fired since the start: lower shift, or start from rescale='calibrated'",
    "saturated": "scores saturate (standard deviation {score_std:.3g}, loss {contrast:.3g} times chance): rescale the "
    "head with k >= 8 (rescale=16.0 or 'auto'), or raise temperature",
    "alike": "all documents get the same vector (mean cosine {cosine:.3f}) and nothing is ranked; start from "
    "rescale='calibrated', lower learning_rate, or use a longer warmup",
    "alike out of scale": "all documents get the same vector (mean cosine {cosine:.3f}) and nothing is ranked; the "
    "scores were saturated at the start (loss {start:.3g} times chance): rescale the head with k >= 8 (rescale=16.0, "
    "'auto' or 'calibrated')",
    "every term": "nearly every term is active ({active_d:.0f} per document) and nothing is ranked; dividing the head "
    "does not silence them: start from rescale='calibrated', which shifts the logits of each term",
    "dense": "vectors stay dense ({active_d:.0f} active terms per document) at the full regulariser: raise lambda_d, "
    "or start from rescale='calibrated'",
}


class CollapseError(RuntimeError):
    """A run that has collapsed: its ``verdict`` ("nan", "zero", "saturated", "alike" or "dense"), seen at ``step``."""

    def __init__(self, verdict: str, step: int, message: str) -> None:
        super().__init__(message)
        self.verdict, self.step = verdict, step


@torch.no_grad()
def measure(parts: StepParts, temperature: float) -> dict[str, float]:
    """Figures of one batch; ``contrast``: in-batch cross-entropy in units of ln(number of candidates), 1 is chance."""
    queries, documents = parts.queries, parts.documents
    number = len(documents)
    each = torch.arange(len(queries), device=queries.device)
    labels = each * (number // len(queries))
    scores = queries @ documents.t()
    logits = scores / temperature
    positive = scores[each, labels]
    best_other = scores.scatter(1, labels[:, None], float("-inf")).max(dim=1).values if number > 1 else positive
    active = torch.count_nonzero(documents)
    unit = torch.nn.functional.normalize(documents, dim=1)
    # the sum over all pairs is the squared norm of the sum of unit vectors
    cosines = unit.sum(dim=0).square().sum() - unit.square().sum()
    figures = {
        "active_q": torch.count_nonzero(queries) / len(queries),
        "active_d": active / number,
        "mean_weight": documents.sum() / active.clamp_min(1),
        "max_weight": documents.max(),
        "positive_score": positive.mean(),
        "margin": (positive - best_other).mean(),
        "score_std": scores.std(),
        "saturation": logits.softmax(dim=1).max(dim=1).values.mean(),
        "contrast": torch.nn.functional.cross_entropy(logits, labels) / math.log(max(2, number)),
        "accuracy": (scores.argmax(dim=1) == labels).float().mean(),
        "cosine": cosines / max(1, number * (number - 1)),
    }
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))  # one copy off the device


class Monitor:
    """Watches every step: log, bar, trackers, verdicts. Of ``steps`` updates ``done`` are made already."""

    def __init__(
        self, module: SparseHead, config: TrainConfig, folder: Path, *, done: int, steps: int, warmup: int,
        verbose: bool,
    ) -> None:  # fmt: skip
        self.module, self.config, self.steps = module, config, steps
        self.left_out = 0  # steps whose loss or gradient was not finite
        self._judge = Judge(module.term_count, config.ramp_steps, warmup)
        self._warned: set[str] = set()
        self._started = time.perf_counter()
        self._main, self._log = world()[0] == 0, folder / LOG_FILE
        if self._main:
            forget_steps(self._log, done)
            for row in logged(self._log):  # so that a run which goes on is judged like one that was never stopped
                self._judge(row)
                self._started = time.perf_counter() - row["seconds"]
        self._tracker = None
        if self._main and config.report_to:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            kind = LOGGER_TYPE_TO_CLASS[config.report_to]
            files = {"logging_dir": folder / "runs"} if kind.requires_logging_directory else {}
            self._tracker = kind(folder.name, **files)
            self._tracker.start()
        shown = self._main and verbose
        self._bar = progress_bar(total=steps, initial=done, desc="training", unit="step", disable=not shown)

    def look(self, step: int, parts: list[StepParts], norm: float, rate: float) -> bool:
        """Note a step before it is made; returns whether it may be made: all is finite. Raises ``CollapseError``."""
        # over micro-batches and processes, so that all leave out the same steps
        losses = batch_mean(torch.stack([part.losses for part in parts])).tolist()
        finite = all(map(math.isfinite, (norm, *losses)))
        self._bar.update()
        if not finite or step % self.config.log_steps == 0 or step in (1, self.steps):
            row = self._figures(step, parts[-1], losses, norm, rate)
            finite = finite and bool(row["finite"])
            if self._main:
                write_row(self._log, row)
            if self._tracker is not None:
                self._tracker.log({name: value for name, value in row.items() if name != "step"}, step=step)
            self._bar.set_postfix_str(
                f"loss {row['loss']:.3g}, active q/d {row['active_q']:.0f}/{row['active_d']:.0f}, "
                f"score std {row['score_std']:.3g}",
                refresh=False,
            )
            collapse = self._judge(row) if self.config.monitor else None
            if collapse is not None and self.config.monitor is True:
                raise collapse
            if collapse is not None and collapse.verdict not in self._warned:
                self._warned.add(collapse.verdict)
                warn(str(collapse))
        self.left_out += not finite
        return finite

    def _figures(self, step: int, parts: StepParts, losses: list[float], norm: float, rate: float) -> dict[str, Any]:
        (ranking, penalty_q, penalty_d), (lambda_q, lambda_d) = losses, parts.lambdas
        penalty = lambda_q * penalty_q + lambda_d * penalty_d
        loss = ranking + penalty
        weight, log_k = self.module.head.weight.detach(), self.module.log_k
        rows = weight[:: max(1, len(weight) // _SAMPLED_ROWS)].float()
        k = 1.0 if log_k is None else math.exp(float(log_k.detach()))
        return {
            "step": step, "loss": loss, "ranking": ranking, "penalty_q": penalty_q, "penalty_d": penalty_d,
            "lambda_q": lambda_q, "lambda_d": lambda_d, "regularizer_share": penalty / loss if loss else 0.0,
            **measure(parts, self.config.temperature),
            "grad_norm": norm, "head_norm": float(torch.linalg.vector_norm(rows, dim=1).mean()) / k,
            "finite": int(all(map(math.isfinite, (loss, norm)))), "lr": rate, "k": k,
            "seconds": time.perf_counter() - self._started,
        }  # fmt: skip

    def check_weights(self, step: int) -> None:
        """Raise :class:`CollapseError` where nothing can become of the weights, before they are scored or saved."""
        broken = not_finite(self.module)
        left_out = f"{self.left_out} of {step} steps were left out, as their loss or gradient was not finite"
        if broken:
            told = f"weights are not finite: {broken}; they are not saved. Lower learning_rate, or set max_grad_norm"
            raise CollapseError("nan", step, f"step {step}: {told}")
        if self.left_out == step == self.steps:
            raise CollapseError("nan", step, f"{left_out}: nothing was learnt, and nothing is saved")
        if step == self.steps and self.left_out:
            warn(left_out)

    def close(self) -> None:
        """Close bar and tracker, however the run ended."""
        self._bar.close()
        if self._tracker is not None:
            self._tracker.finish()


def not_finite(module: torch.nn.Module) -> str:
    """Names of parameters that hold NaN or infinity, at most three; empty where all are finite."""
    names = [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def write_row(log: Path, row: dict[str, Any]) -> None:
    """Append a row to a CSV file, which begins with the names of its columns, ``step`` first."""
    values = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values())
    with log.open("a", encoding="utf-8", newline="\n") as file:
        if not file.tell():
            print(*row, sep=",", file=file)
        print(*values, sep=",", file=file)


def logged(log: Path) -> list[dict[str, float]]:
    """The rows of a log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def forget_steps(log: Path, done: int) -> None:
    """Take the steps behind ``done`` out of a log, a line that is cut off too: a run that goes on repeats them."""
    if log.exists():
        header, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) <= done]
        write_whole(log, "".join([header, *kept]))


class Judge:
    """Tells a collapsed run from a healthy one, by figures that stay bad over a window of steps.

    Until ``ramp_steps`` vectors may be dense; until ``warmup_steps`` nothing need be ranked.
    """

    #: Consecutive bad steps before a verdict.
    patience = {"zero": 10, "saturated": 50, "alike": 50, "dense": 100}

    def __init__(self, vocab_size: int, ramp_steps: int, warmup_steps: int = 0) -> None:
        self.vocab_size, self.ramp_steps, self.warmup_steps = vocab_size, ramp_steps, warmup_steps
        self._since: dict[str, int] = {}
        self._contrast: deque[float] = deque(maxlen=self.patience["saturated"])
        self._first: float | None = None  # contrast of the first step: a mis-scaled head shows here

    def __call__(self, row: dict[str, Any]) -> CollapseError | None:
        """The verdict after a step, or ``None``."""
        step, contrast = int(row["step"]), row["contrast"]
        self._first = contrast if self._first is None else self._first
        if not row["finite"]:
            names = ("ranking", "penalty_q", "penalty_d", "max_weight", "grad_norm")
            parts = ", ".join(name for name in names if not math.isfinite(row[name])) or "loss"
            return CollapseError("nan", step, f"step {step}: not finite: {parts}; {_REMEDIES['nan']}")
        self._contrast.append(contrast)
        falling = contrast < 0.5 * self._contrast[0]
        signs = {
            "zero": row["active_d"] < 1 or row["active_q"] < 1,
            "saturated": contrast > _SATURATED and row["saturation"] > 0.8 and not falling,
            "alike": step > self.warmup_steps and row["cosine"] > 0.98 and contrast > 0.95,
            "dense": step > self.ramp_steps and row["lambda_d"] > 0 and row["active_d"] > 0.5 * self.vocab_size,
        }
        self._since = {verdict: self._since.get(verdict, step) for verdict, bad in signs.items() if bad}
        for verdict, first in self._since.items():
            if step - first + 1 >= self.patience[verdict]:
                kind = "zero from the start" if verdict == "zero" and first == 1 else verdict
                kind = "alike out of scale" if verdict == "alike" and self._first > _SATURATED else kind
                if verdict in ("saturated", "alike") and row["active_d"] > 0.95 * self.vocab_size:
                    kind = "every term"  # as of SmolLM2, at any k
                told = _REMEDIES[kind].format(**row, start=self._first)
                return CollapseError(verdict, step, f"step {step} (since step {first}): {told}")
        return None
