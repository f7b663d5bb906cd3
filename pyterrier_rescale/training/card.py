"""The model card of a trained encoder: what it was made from, how, and what the run looked like."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..head import find_head, mean_row_norm
from ..rescaling import provenance
from .config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .data import Rows

_FIGURES = (
    ("ranking", "ranking loss"),
    ("contrast", "in-batch loss in units of chance"),
    ("score_std", "standard deviation of in-batch scores"),
    ("saturation", "mean largest softmax probability"),
    ("active_q", "active terms per query"),
    ("active_d", "active terms per document"),
    ("cosine", "mean cosine of documents"),
    ("grad_norm", "gradient norm"),
    ("head_norm", "mean row norm of the head"),
)


def write_card(
    folder: Path, backbone: Any, model: PreTrainedModel, rows: Rows, config: TrainConfig, log: Path
) -> None:
    """Write ``README.md`` into the encoder's folder, with the metadata that model hubs read."""
    name = _name(backbone)
    record = provenance(model) or {}
    before = record.get("mean_row_norm_before")
    after = mean_row_norm(find_head(model).weight)
    how = f"rescaled (arXiv:2606.18811, {record.get('method')}, k = {record['k']:.4g})" if record else "not rescaled"
    left_out = ", ".join(f"{count} with {why}" for why, count in rows.skipped.items())
    base = [f"base_model: {name}"] if _is_hub_name(backbone) else []
    lines = [
        *("---", "library_name: sentence-transformers", "pipeline_tag: feature-extraction", *base),
        *("tags:", "- sparse-encoder", "- splade", "- pyterrier", "- pyterrier_rescale", "---", ""),
        *(f"# SPLADE from {name}", ""),
        *(f"A sparse encoder trained with `pyterrier_rescale`; its masked-LM head was {how}.", ""),
        *("```python", "from pyterrier_rescale import Splade", 'splade = Splade("this folder")'),
        *('splade.encode_docs(["a text"])  # scipy CSR, column = token id', ""),
        *("from sentence_transformers import SparseEncoder", 'SparseEncoder("this folder").encode(["a text"])'),
        *("```", "", "## Head", ""),
        f"Mean row norm of the decoder: {f'{before:.4g} before rescaling, ' if before else ''}{after:.4g} now.",
        *("", "## Data", ""),
        f"{len(rows):,} rows of a query and {1 + rows.facts.negatives[0]} document(s)"
        + (f"; left out: {left_out}." if left_out else "."),
        *("", "## Run", "", *_run_table(log), "", "Options (`train_config.json`):", ""),
        *("```json", json.dumps(config.to_dict(), indent=2), "```", ""),
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _name(backbone: Any) -> str:
    if not isinstance(backbone, (str, os.PathLike)):
        return type(backbone).__name__
    return os.fspath(backbone) if _is_hub_name(backbone) else Path(backbone).name


def _is_hub_name(backbone: Any) -> bool:
    return isinstance(backbone, str) and not Path(backbone).expanduser().exists()


def _run_table(log: Path) -> list[str]:
    """First and last row of the log side by side."""
    with log.open(newline="", encoding="utf-8") as file:
        steps = list(csv.DictReader(file))
    if not steps:
        return ["No step was logged."]
    first, last = steps[0], steps[-1]
    return [
        f"| | step {first['step']} | step {last['step']} |",
        "|---|---|---|",
        *(f"| {what} | {float(first[name]):.4g} | {float(last[name]):.4g} |" for name, what in _FIGURES),
    ]
