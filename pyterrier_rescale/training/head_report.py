"""The head before and after training, for the model card."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ..analysis.head_audit import HeadAudit, audit
from ..analysis.measurement import MIN_TEXTS
from ..heads.decoder import find_head
from .config import TrainConfig
from .initialization import sample_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..encoding.query_encoder import QuerySide
    from .data.rows import Rows

# Pairs of the training data that a head is measured on, and texts per batch: seconds, whatever the backbone.
_PAIRS = 32
_BATCH = 16
_FIGURES = (
    ("active_terms", "active terms per document"),
    ("active_terms_query", "active terms per query"),
    ("score_std", "standard deviation of scores of random pairs"),
    ("random_saturation", "largest softmax probability among 32 random documents"),
)


def measure_head(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig, queries: QuerySide
) -> HeadAudit | None:
    """Audit a head on a few training pairs (on its weights alone where there are under 8); ``None`` if not finite.

    Both sides are encoded as they are trained: ``queries`` says how queries are.
    """
    if not torch.isfinite(find_head(model).weight).all():
        return None
    pairs = sample_pairs(rows, _PAIRS)
    return audit(
        model,
        pairs if len(pairs) >= MIN_TEXTS else None,
        tokenizer=tokenizer,
        temperature=config.temperature,
        max_length=config.max_length,
        batch_size=_BATCH,
        device=config.device,
        pooling=config.pooling,
        query_side=queries,
    )


def head_table(before: HeadAudit | None, after: HeadAudit | None) -> list[str]:
    """Lines of Markdown: the two audits side by side, how they were made, and the verdict before in full."""
    audits = (before, after)
    figures = [("row_norm_mean", "mean row norm of the decoder")]
    texts = next((audit.numbers["texts"] for audit in audits if audit and "texts" in audit.numbers), None)
    if texts is not None:
        figures.extend(_FIGURES)
    rows = [(what, [_figure(audit, name) for audit in audits]) for name, what in figures]
    rows.insert(1, ("verdict", [_verdict(a) for a in audits]))
    rows.insert(2, ("suggested k", [_suggested(a) for a in audits]))
    how = "Measured on the weights alone." if texts is None else (
        f"Measured on {texts} pairs of the training data, both sides encoded as in training."
    )  # fmt: skip
    return [
        *("| | before training | after |", "|---|---|---|"),
        *(f"| {what} | {' | '.join(values)} |" for what, values in rows),
        *("", how + ("" if before is None else f" Before training: {before.verdict}.")),
    ]


def _verdict(audit: HeadAudit | None) -> str:
    if audit is None:
        return "not finite"
    return ", ".join(audit.findings) or audit.verdict.split(":")[0]  # fine, or not measured


def _suggested(audit: HeadAudit | None) -> str:
    return "" if audit is None or math.isnan(audit.suggested_k) else f"{audit.suggested_k:.4g}"


def _figure(audit: HeadAudit | None, name: str) -> str:
    value = None if audit is None else audit.numbers.get(name)
    return "" if value is None else f"{value:.4g}"
