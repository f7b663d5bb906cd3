"""The model card of a trained encoder: what it was made from, how, and what the run looked like."""

from __future__ import annotations

import csv
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from .._utils.durable import write_whole
from ..heads.provenance import provenance
from .config import TrainConfig
from .head_report import head_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..analysis.head_audit import HeadAudit
    from .data.rows import Rows

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


class Origin(NamedTuple):
    """What ``train`` was called with, beside its options."""

    backbone: Any
    data: Any
    texts: Any = None
    tokenizer: Any = None
    dev: Any = None

    @property
    def name(self) -> str:
        """The backbone's name, without the folders of this machine."""
        if not isinstance(self.backbone, (str, os.PathLike)):
            return type(self.backbone).__name__
        return _short(self.backbone)


def write_card(
    folder: Path, origin: Origin, model: PreTrainedModel, rows: Rows, config: TrainConfig, log: Path,
    audits: tuple[HeadAudit | None, HeadAudit | None],
) -> None:  # fmt: skip
    """Write ``README.md`` into the encoder's folder, with the metadata that model hubs read.

    Args:
        folder: of the encoder.
        origin: what it was made from.
        model: the trained masked LM.
        rows: the training data.
        config: the options.
        log: ``monitor.csv``.
        audits: of the head before and after training.
    """
    record = provenance(model) or {}
    how = f"rescaled (arXiv:2606.18811, {record.get('method')}, k = {record['k']:.4g})" if record else "not rescaled"
    left_out = ", ".join(f"{count} with {why}" for why, count in rows.skipped.items())
    base = [f"base_model: {origin.name}"] if _is_hub_name(origin.backbone) else []
    lines = [
        *("---", "library_name: sentence-transformers", "pipeline_tag: feature-extraction", *base),
        *("tags:", "- sparse-encoder", "- splade", "- pyterrier", "- pyterrier_rescale", "---", ""),
        *(f"# SPLADE from {origin.name}", ""),
        *(f"A sparse encoder trained with `pyterrier_rescale`; its masked-LM head was {how}.{_queries(config)}", ""),
        *("```python", "from pyterrier_rescale import Splade", 'splade = Splade("this folder")'),
        *('splade.encode_docs(["a text"])  # scipy CSR, column = token id', ""),
        "from sentence_transformers import SparseEncoder",
        *('SparseEncoder("this folder").encode_document(["a text"])  # encode_query for queries', "```", ""),
        *("## Head", "", *head_table(*audits), "", "## Data", ""),
        f"{source_name(origin.data)}{f', texts from {source_name(origin.texts)}' if origin.texts is not None else ''}: "
        f"{len(rows):,} rows of a query and {1 + rows.facts.negatives[0]} document(s)"
        + (f"; left out: {left_out}." if left_out else "."),
        *("", "## Run", "", *_run_table(log), "", *_reproduction(origin, config)),
        *("", "Options (`train_config.json`):", "", "```json", json.dumps(config.to_dict(), indent=2), "```", ""),
    ]
    write_whole(folder / "README.md", "\n".join(lines))


def _queries(config: TrainConfig) -> str:
    if config.queries == "static":
        return " Queries need no inference: their terms are their tokens, with trained weights."
    if config.query_pooling not in (None, config.pooling):
        return f" Documents are pooled by `{config.pooling}`, queries by `{config.query_pooling}`."
    return ""


def _reproduction(origin: Origin, config: TrainConfig) -> list[str]:
    """The call that makes this encoder again, the command where there is one, and the versions used."""
    given = {name: value for name, value in config.to_dict().items() if value != getattr(TrainConfig(), name)}
    others = [name for name in ("texts", "tokenizer", "dev") if getattr(origin, name) is not None]
    backbone = repr(origin.name) if isinstance(origin.backbone, (str, os.PathLike)) else "model"
    arguments = [backbone, "data", '"splade"', *(f"{name}={name}" for name in others)]
    call = ", ".join([*arguments, *(f"{name}={value!r}" for name, value in given.items())])
    lines = ["Made by", "", "```python", "from pyterrier_rescale import train", f"train({call})", "```", ""]
    data, texts = (_command_name(source) for source in (origin.data, origin.texts))
    if isinstance(origin.backbone, (str, os.PathLike)) and data and not {"tokenizer", "dev"} & set(others):
        if origin.texts is None or texts:
            option = f" --texts {texts}" if texts else ""
            command = f"pyterrier-rescale train {origin.name} {data} splade{option} --config train_config.json"
            lines += ["or, with this folder's options, by", "", "```bash", command, "```", ""]
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return [*lines, f"with pyterrier_rescale {__version__}, {versions}; default options are left out of the call."]


def source_name(source: Any) -> str:
    """What a data source is, in a few words, without the folders of this machine."""
    name = _command_name(source)
    return f"`{name}`" if name else f"a {type(source).__name__}"


def _command_name(source: Any) -> str | None:
    """A file or collection as the command line takes it, without the folders of this machine."""
    if isinstance(source, (str, os.PathLike)):
        return _short(source)
    name = getattr(source, "name", None)
    return _short(name) if isinstance(name, str) and hasattr(source, "corpus") else None


def _short(name: str | os.PathLike[str]) -> str:
    return os.fspath(name) if _is_hub_name(name) else Path(name).name


def _is_hub_name(backbone: Any) -> bool:
    return isinstance(backbone, str) and not Path(backbone).expanduser().exists() and not Path(backbone).is_absolute()


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
