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

from .._utils.files import expand, write_whole
from ..analysis.head_audit import HeadAudit, audit
from ..analysis.measurement import MIN_TEXTS
from ..heads.decoder import find_head
from ..heads.provenance import provenance
from .config import TrainConfig, shown
from .initialization import sample_pairs
from .monitor import LOG_FILE
from .rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..encoding.description import Description

CARD_FILE = "README.md"
#: Name of the file with the head's audits before and after training.
AUDITS_FILE = "head_audit.json"
# Pairs of the training data that a head is measured on: seconds, whatever the backbone.
_PAIRS = 32
_PACKAGES = ("transformers", "torch")
# Stands in every card of ours: another README.md is somebody's own.
_TAG = "- pyterrier_rescale"
# Rows of the card's tables, by their names in monitor.csv and head_audit.json.
_RUN_FIGURES = (
    "ranking", "contrast", "score_std", "saturation", "active_q", "active_d", "cosine", "grad_norm", "head_norm",
)  # fmt: skip
_HEAD_FIGURES = (
    "row_norm_mean", "verdict", "suggested_k", "active_terms", "active_terms_query", "random_std", "random_saturation",
)  # fmt: skip
_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
{base}tags:
- sparse-encoder
- splade
- pyterrier
{tag}
---

# SPLADE from {name}

A sparse encoder trained with `pyterrier_rescale`; its masked-LM head was {head}.{sides}

```python
from pyterrier_rescale import Splade
splade = Splade("this folder")
splade.encode_docs(["a text"])  # scipy CSR, column = token id

from sentence_transformers import SparseEncoder
SparseEncoder("this folder").encode_document(["a text"])  # encode_query for queries
```

## Head

{audits}

Measured on training pairs (if there are few, on the weights alone), both sides encoded as in training. {verdict}

## Data

{data}

## Run

{run}

These figures of every step are in `monitor.csv`. Made by

```python
from pyterrier_rescale import train
train({call})
```

with {versions}. Options that are not named are the defaults; all of them (`train_config.json`):

```json
{config}
```
"""


def write_card(
    folder: Path, sources: dict[str, Any], model: PreTrainedModel, rows: Rows, config: TrainConfig,
    audits: tuple[HeadAudit | None, HeadAudit | None],
) -> None:  # fmt: skip
    """Write ``README.md``, with the metadata that model hubs read, and ``head_audit.json`` into the encoder's folder.

    ``sources`` are the arguments ``backbone``, ``data``, ``texts``, ``tokenizer``, ``dev`` of ``train``; the audits are
    of the head before and after training.
    """
    name, card = _name(sources["backbone"]), folder / CARD_FILE
    plain = [None if one is None else json.loads(one.to_frame().assign(model=name).to_json(
        orient="records", double_precision=15))[0] for one in audits]  # fmt: skip
    content = json.dumps(dict(zip(("before", "after"), plain, strict=True)), indent=2, allow_nan=False)
    write_whole(folder / AUDITS_FILE, content + "\n")
    if card.exists() and _TAG not in card.read_text(encoding="utf-8"):
        return  # somebody's own
    with (folder / LOG_FILE).open(newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    write_whole(card, _CARD.format(
        base=f"base_model: {name}\n" if _is_hub_name(sources["backbone"]) else "",
        tag=_TAG,
        name=name,
        head=_head(provenance(model) or {}),
        sides=_sides(config),
        audits=_table(_HEAD_FIGURES, {"before training": _figures(audits[0]), "after": _figures(audits[1])}),
        verdict="" if audits[0] is None else f"Before training: {audits[0].verdict}.",
        data=_data(sources, rows),
        run=_table(_RUN_FIGURES, {f"step {row['step']}": row for row in (log[0], log[-1])}),
        call=_call(name, sources, config),
        versions=", ".join(f"{package} {version(package)}" for package in ("pyterrier-rescale", *_PACKAGES)),
        config=json.dumps({option: shown(value) for option, value in config.to_dict().items()}, indent=2),
    ))  # fmt: skip


def measure_head(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig, description: Description
) -> HeadAudit | None:
    """Audit a head on a few training pairs (on its weights alone where there are under 8); ``None`` if not finite.

    Both sides are encoded as they are trained, which ``description`` says.
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
        encoding=description,
        device=config.device,
    )


def _head(record: dict[str, Any]) -> str:
    how = "not rescaled"
    if "k" in record:
        how = f"rescaled (arXiv:2606.18811, {record.get('method')}, k = {record['k']:.4g})"
    shift = record.get("shift")
    if shift is None:
        return how
    return f"{how}, its logits lowered ({shift if isinstance(shift, str) else f'by {shift:g}'}, stored in the bias)"


def _sides(config: TrainConfig) -> str:
    """How queries differ from documents, and what other tools do not know."""
    told = ""
    if config.queries == "static":
        told = " Queries need no inference: their terms are their tokens, with trained weights."
    elif config.query_pooling not in (None, config.pooling):
        told = f" Documents are pooled by `{config.pooling}`, queries by `{config.query_pooling}`."
    options = {name: getattr(config, name) for name in ("position_top_k", "fold") if getattr(config, name) is not None}
    options |= {} if config.special_positions else {"special_positions": False}
    given = ", ".join(f"`{name}={value!r}`" for name, value in options.items())
    return told + (f" It has {given}, which `Splade` follows and tools that do not know it ignore." if given else "")


def _data(sources: dict[str, Any], rows: Rows) -> str:
    texts = "" if sources["texts"] is None else f", texts from `{_name(sources['texts'])}`"
    left_out = ", ".join(f"{count} with {why}" for why, count in rows.skipped.items())
    documents = f"a query and {min(len(row.documents) for row in rows)} document(s)"
    told = f"; left out: {left_out}." if left_out else "."
    return f"`{_name(sources['data'])}`{texts}: {len(rows):,} rows of {documents}{told}"


def _call(name: str, sources: dict[str, Any], config: TrainConfig) -> str:
    """Arguments that make this encoder again."""
    backbone = repr(name) if isinstance(sources["backbone"], (str, os.PathLike)) else "model"
    others = [f"{argument}={argument}" for argument in ("texts", "tokenizer", "dev") if sources[argument] is not None]
    default = TrainConfig().to_dict()
    given = {option: value for option, value in config.to_dict().items() if value != default[option]}
    options = [f"{option}={option if isinstance(value, tuple) else repr(value)}" for option, value in given.items()]
    return ", ".join([backbone, "data", '"splade"', *others, *options])


def _figures(one: HeadAudit | None) -> dict[str, Any]:
    if one is None:
        return {"verdict": "not finite"}
    verdict = ", ".join(one.findings) or one.verdict.split(":")[0]
    return {**one.numbers, "verdict": verdict, "suggested_k": one.suggested_k}


def _table(figures: tuple[str, ...], columns: dict[str, dict[str, Any]]) -> str:
    """A Markdown table: a line for each figure that any column has."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in figures:
        values = [column.get(name, "") for column in columns.values()]
        if any(value != "" for value in values):
            lines.append(f"| {name} | {' | '.join(map(_cell, values))} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return "" if math.isnan(number) else f"{number:.4g}"


def _name(source: Any) -> str:
    """What a backbone or data source is called, without the folders of this machine."""
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    if not isinstance(name, (str, os.PathLike)):
        return type(source).__name__
    return str(name) if _is_hub_name(name) else Path(name).name


def _is_hub_name(name: Any) -> bool:
    return isinstance(name, str) and not expand(name).exists() and not Path(name).is_absolute()
