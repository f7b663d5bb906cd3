"""What a run looks like from outside: one row per step, and verdicts that stop a collapsed run with a remedy."""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .losses import StepParts

#: Columns of ``monitor.csv``.
COLUMNS = (
    "step", "loss", "ranking", "penalty_q", "penalty_d", "lambda_q", "lambda_d", "regularizer_share",
    "active_q", "active_d", "mean_weight", "max_weight", "positive_score", "margin", "score_std", "saturation",
    "contrast", "accuracy", "cosine", "grad_norm", "head_norm", "finite", "lr", "k", "seconds",
)  # fmt: skip


# Loss in units of chance above which scores are larger than the softmax can use.
_SATURATED = 2.0


class CollapseError(RuntimeError):
    """A training run that has collapsed and cannot recover.

    Attributes:
        verdict: ``"nan"``, ``"zero"``, ``"saturated"``, ``"alike"`` or ``"dense"``.
        step: optimizer step at which it was seen.
    """

    def __init__(self, verdict: str, step: int, message: str) -> None:
        super().__init__(verdict, step, message)
        self.verdict, self.step, self.message = verdict, step, message

    def __str__(self) -> str:
        return self.message


@torch.no_grad()
def measure(parts: StepParts, temperature: float) -> dict[str, float]:
    """Figures of one batch, in the words of :mod:`~pyterrier_rescale.analysis.head_statistics`.

    ``contrast`` is the in-batch cross-entropy in units of ln(number of candidates): 1 is chance. ``cosine`` is the mean
    over pairs of documents, weights are means and maxima over non-zeros of documents.
    """
    queries, documents = parts.queries, parts.documents
    own = len(documents) // len(queries)
    labels = torch.arange(len(queries), device=queries.device) * own
    scores = queries @ documents.t()
    logits = scores / temperature
    positive = scores[torch.arange(len(queries), device=queries.device), labels]
    others = scores.scatter(1, labels[:, None], float("-inf"))
    best_other = others.max(dim=1).values if scores.shape[1] > 1 else positive
    active = torch.count_nonzero(documents)
    figures = {
        "active_q": torch.count_nonzero(queries) / len(queries),
        "active_d": active / len(documents),
        "mean_weight": documents.sum() / active.clamp_min(1),
        "max_weight": documents.max(),
        "positive_score": positive.mean(),
        "margin": (positive - best_other).mean(),
        "score_std": scores.std(),
        "saturation": logits.softmax(dim=1).max(dim=1).values.mean(),
        "contrast": torch.nn.functional.cross_entropy(logits, labels) / math.log(max(2, scores.shape[1])),
        "accuracy": (scores.argmax(dim=1) == labels).float().mean(),
        "cosine": mean_cosine(documents),
    }
    return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))  # one copy off the device


def mean_cosine(vectors: torch.Tensor) -> torch.Tensor:
    """Mean cosine over pairs of different rows of (B, V): 0 for zero vectors."""
    unit = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(1e-12)
    size = len(unit)
    if size < 2:
        return unit.new_zeros(())
    # the sum over all pairs is the squared norm of the sum of unit vectors
    total = unit.sum(dim=0).square().sum() - unit.square().sum()
    return total / (size * (size - 1))


class Log:
    """A CSV file of one row per logged step, flushed at once; resumed runs go on where the checkpoint was."""

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int = 0) -> None:
        self.columns = columns
        kept = _rows_until(path, resume_step) if resume_step and path.exists() else []
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._file.flush()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self._writer.writerow({
            name: f"{row[name]:.6g}" if isinstance(row[name], float) else row[name] for name in self.columns
        })
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdigit() and None not in row.values()]
    return [row for row in rows if int(row["step"]) <= step]


class Judge:
    """Tells a collapsed run from a healthy one, by figures that stay bad over a window of steps.

    ``vocab_size`` terms: V, or as many as folding leaves. Until the regulariser's ``ramp_steps`` vectors may be dense;
    until ``warmup_steps`` nothing need be ranked.
    """

    #: Consecutive bad steps before a verdict.
    patience = {"zero": 10, "saturated": 50, "alike": 50, "dense": 100}

    def __init__(self, vocab_size: int, ramp_steps: int, warmup_steps: int = 0) -> None:
        self.vocab_size, self.ramp_steps, self.warmup_steps = vocab_size, ramp_steps, warmup_steps
        self._since: dict[str, int] = {}
        self._contrast: deque[tuple[int, float]] = deque()
        self._first: float | None = None  # contrast of the first step: a mis-scaled head shows here

    def __call__(self, row: dict[str, Any]) -> CollapseError | None:
        """The verdict after a step, or ``None``."""
        step = int(row["step"])
        if self._first is None:
            self._first = row["contrast"]
        if not row["finite"]:
            return CollapseError("nan", step, _nan_message(row))
        for verdict, bad in self._signs(row).items():
            if not bad:
                self._since.pop(verdict, None)
                continue
            first = self._since.setdefault(verdict, step)
            if step - first + 1 >= self.patience[verdict]:
                return CollapseError(verdict, step, _message(verdict, first, row, self._first))
        return None

    def _signs(self, row: dict[str, Any]) -> dict[str, bool]:
        step = int(row["step"])
        self._contrast.append((step, row["contrast"]))
        while self._contrast and self._contrast[0][0] <= step - self.patience["saturated"]:
            self._contrast.popleft()
        falling = row["contrast"] < 0.5 * self._contrast[0][1]
        return {
            "zero": row["active_d"] < 1 or row["active_q"] < 1,
            "saturated": row["contrast"] > _SATURATED and row["saturation"] > 0.8 and not falling,
            "alike": step > self.warmup_steps and row["cosine"] > 0.98 and row["contrast"] > 0.95,
            "dense": step > self.ramp_steps and row["lambda_d"] > 0 and row["active_d"] > 0.5 * self.vocab_size,
        }


def _nan_message(row: dict[str, Any]) -> str:
    names = ("ranking", "penalty_q", "penalty_d", "max_weight", "grad_norm")
    parts = [name for name in names if not math.isfinite(row[name])]
    return (
        f"step {row['step']}: not finite: {', '.join(parts) or 'loss'}; the weights before this step are kept. "
        "Look for broken values in the backbone or teacher scores, or lower learning_rate; in bf16 try without"
    )


def _message(verdict: str, first: int, row: dict[str, Any], start: float) -> str:
    since = f"step {row['step']} (since step {first}): "
    if verdict == "zero" and first == 1:
        return since + "no term has fired since the start: lower shift, or start from rescale='calibrated'"
    if verdict == "zero":
        return since + (
            f"vectors are empty ({row['active_q']:.1f} active terms per query, {row['active_d']:.1f} per document): "
            "the regulariser outran the ranking loss; lower lambda_q and lambda_d, or lengthen ramp_steps"
        )
    if verdict == "saturated":
        return since + (
            f"scores saturate (standard deviation {row['score_std']:.3g}, loss {row['contrast']:.3g} times chance): "
            "rescale the head with k >= 8 (rescale=16.0 or 'auto'), or raise temperature"
        )
    if verdict == "alike":
        return since + (
            f"all documents get the same vector (mean cosine {row['cosine']:.3f}) and nothing is ranked; "
        ) + (
            f"the scores were saturated at the start (loss {start:.3g} times chance): rescale the head with k >= 8 "
            "(rescale=16.0, 'auto' or 'calibrated')"
            if start > _SATURATED
            else "start from rescale='calibrated', lower learning_rate, or use a longer warmup"
        )
    return since + (
        f"vectors stay dense ({row['active_d']:.0f} active terms per document) at the full regulariser: "
        "raise lambda_d, or start from rescale='calibrated'"
    )
