"""The model card of a trained encoder: what it was made from, how, and what the run looked like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._utils.files import expand, write_whole
from ..analysis.head_audit import HeadAudit, audit
from ..analysis.measurement import MIN_TEXTS
from ..encoding.model_card import CARD, head_in_words
from ..heads.provenance import provenance
from .config import TrainConfig, saved_options
from .initialization import sample_pairs
from .monitor import LOG_FILE
from .recipes import RECIPES
from .rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..encoding.description import Description

#: Name of the file with the head's audits before and after training.
AUDITS_FILE = "head_audit.json"
# Pairs of the training data that a head is measured on: seconds, whatever the backbone.
_PAIRS = 32
_PACKAGES = ("pyterrier-rescale", "transformers", "torch")
# Rows of the card's tables, by their names in monitor.csv and head_audit.json.
_RUN_FIGURES = ["ranking", "contrast", "score_std", "saturation", "active_q", "active_d", "cosine", "grad_norm",
                "head_norm"]  # fmt: skip
_HEAD_FIGURES = ["row_norm_mean", "suggested_k", "active_terms", "active_terms_query", "random_std",
                 "random_saturation"]  # fmt: skip
_CARD = CARD + """
## Head

{audits}

Measured on training pairs (if there are few, on the weights alone), both sides encoded as in training. Before training:
{before}. After: {after}.

## Data

{data}

## Run

{run}

These figures of every step are in `monitor.csv`{saved}. Made by

```python
from pyterrier_rescale import train
train({call})
```

with {versions}. `train_config.json` has all options.{recipe}
"""


def write_card(
    folder: Path, sources: dict[str, Any], model: PreTrainedModel, rows: Rows, config: TrainConfig,
    audits: Sequence[HeadAudit], step: int, recipe: str | None = None,
) -> None:  # fmt: skip
    """Write ``README.md``, and ``head_audit.json``; ``sources``: backbone, data, texts, tokenizer, dev of ``train``.

    ``step``: of the state that is saved.
    """
    name, card = _name(sources["backbone"]), folder / "README.md"
    heads = pd.concat([one.to_frame().assign(model=name) for one in audits]).set_axis(["before", "after"])
    write_whole(folder / AUDITS_FILE, heads.to_json(orient="index", double_precision=15, indent=2) + "\n")
    if card.exists() and "- pyterrier_rescale" not in card.read_text(encoding="utf-8"):
        return  # somebody's own
    log = pd.read_csv(folder / LOG_FILE)
    log = log[log["step"] <= step].iloc[[0, -1]]
    given = config.changed()
    own = [f"`{name}={given[name]!r}`" for name in ("position_top_k", "fold", "special_positions") if name in given]
    for option, value in saved_options(sources["backbone"]).items():  # a default that was given in their place, too
        if repr(value) != repr(getattr(TrainConfig, option)):
            given[option] = getattr(config, option)
    told = ""
    if recipe is not None:
        options, source, missing = RECIPES[recipe]
        listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
        told = f"\n\nRecipe `{recipe}`: `{listed}` ({source}). Not part of it here: {missing}."
    write_whole(card, _CARD.format(
        base_model=f"base_model: {name}\n" if _is_hub_name(sources["backbone"]) else "",
        name=name,
        head=head_in_words(provenance(model) or {}),
        own=f" `Splade` follows its {', '.join(own)}; other tools ignore that." if own else "",
        audits=_table(heads.set_axis(["before training", "after"]), _HEAD_FIGURES),
        before=heads["verdict"]["before"],
        after=heads["verdict"]["after"],
        data=_data(sources, rows),
        run=_table(log.set_axis([f"step {step}" for step in log["step"]]), _RUN_FIGURES),
        call=_call(name, sources, given),
        recipe=told,
        saved="" if sources["dev"] is None else f"; saved is the state after step {step}, the best on dev",
        versions=", ".join(f"{package} {version(package)}" for package in _PACKAGES),
    ))  # fmt: skip


def measure_head(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig, description: Description
) -> HeadAudit:
    """Audit a head on a few training pairs, encoded as ``description`` says; under 8 pairs, on its weights alone."""
    pairs = sample_pairs(rows, _PAIRS)
    return audit(
        model, pairs if len(pairs) >= MIN_TEXTS else None, tokenizer=tokenizer, temperature=config.temperature,
        max_length=config.max_length, encoding=description, device=config.device,
    )  # fmt: skip


def _data(sources: dict[str, Any], rows: Rows) -> str:
    texts = "" if sources["texts"] is None else f", texts from `{_name(sources['texts'])}`"
    left_out = ", ".join(f"{count} with {why}" for why, count in rows.skipped.items())
    documents = min(len(row.documents) for row in rows)
    told = f"`{_name(sources['data'])}`{texts}: {len(rows):,} rows of a query and {documents} document(s)"
    return f"{told}; left out: {left_out}." if left_out else f"{told}."


def _call(name: str, sources: dict[str, Any], given: dict[str, Any]) -> str:
    """Arguments that make this encoder again."""
    arguments = [repr(name) if isinstance(sources["backbone"], (str, os.PathLike)) else "model", "data", '"splade"']
    arguments += [f"{one}={one}" for one in ("texts", "tokenizer", "dev") if sources[one] is not None]
    arguments += [f"{option}={'shift' if len(repr(value)) > 99 else repr(value)}" for option, value in given.items()]
    return ", ".join(arguments)


def _table(frame: pd.DataFrame, figures: Sequence[str]) -> str:
    """Markdown: the rows of a frame side by side, a line for each figure that is there."""
    found = frame.reindex(columns=figures).dropna(axis=1, how="all")
    lines = [["", *frame.index], ["---"] * (1 + len(frame))]
    lines += [[figure, *(f"{value:.4g}" for value in found[figure])] for figure in found]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(source: Any) -> str:
    """What a backbone or data source is called, without the folders of this machine."""
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    if not isinstance(name, (str, os.PathLike)):
        return type(source).__name__
    return str(name) if _is_hub_name(name) else Path(name).name


def _is_hub_name(name: Any) -> bool:
    return isinstance(name, str) and not expand(name).exists() and not Path(name).is_absolute()
