"""The model card of a trained encoder: what it was made from, how, and what the run looked like."""

from __future__ import annotations

import csv
import json
import math
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from .._utils.durable import write_whole
from ..analysis.head_audit import HeadAudit, audit
from ..analysis.measurement import MIN_TEXTS
from ..heads.decoder import find_head
from ..heads.provenance import provenance
from .config import TrainConfig, shown
from .initialization import sample_pairs
from .inputs import AUDITS_FILE, Origin, command_name, is_hub_name, source_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..encoding.description import Description
    from .data.rows import Rows

# Pairs of the training data that a head is measured on: seconds, whatever the backbone.
_PAIRS = 32
_PACKAGES = ("sentence-transformers", "transformers", "torch")
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
_HEAD_FIGURES = (
    ("active_terms", "active terms per document"),
    ("active_terms_query", "active terms per query"),
    ("random_std", "standard deviation of scores of random pairs"),
    ("random_saturation", "largest softmax probability among 32 random documents"),
)


def write_card(
    folder: Path, origin: Origin, model: PreTrainedModel, rows: Rows, config: TrainConfig, log: Path,
    audits: tuple[HeadAudit | None, HeadAudit | None], kept: str,
) -> None:  # fmt: skip
    """Write ``README.md``, with the metadata that model hubs read, and ``head_audit.json`` into the encoder's folder.

    ``log`` is ``monitor.csv``; the audits are of the head before and after training; ``kept`` says which activations
    were kept for the backward pass.
    """
    record = provenance(model) or {}
    how = "not rescaled"
    if "k" in record:
        how = f"rescaled (arXiv:2606.18811, {record.get('method')}, k = {record['k']:.4g})"
    if "shift" in record:
        how += f", its logits lowered ({_lowered(record['shift'])}, stored in the bias)"
    options = json.dumps(_short(config.to_dict()), indent=2)
    left_out = ", ".join(f"{count} with {why}" for why, count in rows.skipped.items())
    base = [f"base_model: {origin.name}"] if is_hub_name(origin.backbone) else []
    lines = [
        *("---", "library_name: sentence-transformers", "pipeline_tag: feature-extraction", *base),
        *("tags:", "- sparse-encoder", "- splade", "- pyterrier", "- pyterrier_rescale", "---", ""),
        *(f"# SPLADE from {origin.name}", ""),
        f"A sparse encoder trained with `pyterrier_rescale`; its masked-LM head was {how}."
        f"{_queries(config)}{_options(config)}",
        *("", "```python", "from pyterrier_rescale import Splade", 'splade = Splade("this folder")'),
        *('splade.encode_docs(["a text"])  # scipy CSR, column = token id', ""),
        "from sentence_transformers import SparseEncoder",
        *('SparseEncoder("this folder").encode_document(["a text"])  # encode_query for queries', "```", ""),
        *("## Head", "", *head_table(*audits), "", "## Data", ""),
        f"{source_name(origin.data)}{f', texts from {source_name(origin.texts)}' if origin.texts is not None else ''}: "
        f"{len(rows):,} rows of a query and {1 + rows.facts.negatives[0]} document(s)"
        + (f"; left out: {left_out}." if left_out else "."),
        *("", "## Run", "", *_run_table(log), "", f"Activations kept for the backward pass: {kept}.", ""),
        *_reproduction(origin, config),
        *("", "Options (`train_config.json`):", "", "```json", options, "```", ""),
    ]
    write_whole(folder / "README.md", "\n".join(lines))
    measured = {when: _plain(audit, origin.name) for when, audit in zip(("before", "after"), audits, strict=True)}
    write_whole(folder / AUDITS_FILE, json.dumps(measured, indent=2, allow_nan=False) + "\n")


def _plain(audit: HeadAudit | None, name: str) -> dict[str, Any] | None:
    """The row of an audit's frame as plain JSON, NaN as null; ``None`` where the head was not finite."""
    if audit is None:
        return None
    (row,) = json.loads(audit.to_frame().assign(model=name).to_json(orient="records", double_precision=15))
    return row


def _options(config: TrainConfig) -> str:
    changed = config.description().changed()
    given = ", ".join(f"`{name}={changed[name]!r}`" for name in ("position_top_k", "fold") if name in changed)
    return f" It has {given}, which `Splade` follows and tools that do not know it ignore." if given else ""


def _lowered(shift: float | str) -> str:
    return shift if isinstance(shift, str) else f"by {shift:g}"


def _queries(config: TrainConfig) -> str:
    if config.queries == "static":
        return " Queries need no inference: their terms are their tokens, with trained weights."
    if config.query_pooling not in (None, config.pooling):
        return f" Documents are pooled by `{config.pooling}`, queries by `{config.query_pooling}`."
    return ""


def _short(options: dict[str, Any]) -> dict[str, Any]:
    return {name: shown(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _reproduction(origin: Origin, config: TrainConfig) -> list[str]:
    """The call that makes this encoder again, the command where there is one, and the versions used."""
    given = {name: value for name, value in config.to_dict().items() if value != getattr(TrainConfig(), name)}
    others = [name for name in ("texts", "tokenizer", "dev") if getattr(origin, name) is not None]
    backbone = repr(origin.name) if isinstance(origin.backbone, (str, os.PathLike)) else "model"
    arguments = [backbone, "data", '"splade"', *(f"{name}={name}" for name in others)]
    given = {name: name if isinstance(value, tuple) else repr(value) for name, value in given.items()}
    call = ", ".join([*arguments, *(f"{name}={value}" for name, value in given.items())])
    lines = ["Made by", "", "```python", "from pyterrier_rescale import train", f"train({call})", "```", ""]
    data, texts = (command_name(source) for source in (origin.data, origin.texts))
    if isinstance(origin.backbone, (str, os.PathLike)) and data and not {"tokenizer", "dev"} & set(others):
        if origin.texts is None or texts:
            option = f" --texts {texts}" if texts else ""
            command = f"pyterrier-rescale train {origin.name} {data} splade{option} --config train_config.json"
            lines += ["or, with this folder's options, by", "", "```bash", command, "```", ""]
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return [*lines, f"with pyterrier_rescale {__version__}, {versions}; default options are left out of the call."]


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


def measure_head(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig, queries: Description
) -> HeadAudit | None:
    """Audit a head on a few training pairs (on its weights alone where there are under 8); ``None`` if not finite.

    Both sides are encoded as they are trained, which ``queries`` says.
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
        encoding=queries,
        device=config.device,
    )


def head_table(before: HeadAudit | None, after: HeadAudit | None) -> list[str]:
    """Lines of Markdown: the two audits side by side, how they were made, and the verdict before in full."""
    audits = (before, after)
    figures = [("row_norm_mean", "mean row norm of the decoder")]
    texts = next((audit.numbers["texts"] for audit in audits if audit and "texts" in audit.numbers), None)
    if texts is not None:
        figures.extend(_HEAD_FIGURES)
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
