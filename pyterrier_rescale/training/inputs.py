"""What a run is begun with, recorded in its folder, so that nothing else is resumed or returned in its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._utils.paths import expand
from ..encoding.description import config_content
from ..heads.fingerprint import model_fingerprint, settings_fingerprint, tokenizer_fingerprint
from .distributed import world

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .data.rows import Rows
    from .dev_evaluation import DevSet

#: Name of the record in the output folder, beside ``train_config.json``.
INPUTS_FILE = "train_inputs.json"
#: Name of the file with the head's audits before and after training.
AUDITS_FILE = "head_audit.json"


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


def describe_inputs(
    origin: Origin, model: PreTrainedModel, tokenizer: Any, rows: Rows, dev: DevSet | None
) -> dict[str, Any]:
    """Names and fingerprints of all that a run learns from, as plain JSON values.

    Names are for people and leave out the folders of this machine; only fingerprints (and the number of processes,
    which share a step's batch) tell one run from another. The model is the backbone before its head is rescaled, the
    rows those before negatives are mined; texts that ids stand for are in them.
    """
    texts = "" if origin.texts is None else f", texts from {source_name(origin.texts)}"
    return {
        "backbone": {
            "name": f"{origin.name} ({type(model).__name__})",
            "fingerprint": settings_fingerprint([model_fingerprint(model), config_content(model)]),
        },
        "tokenizer": {
            "name": "the backbone's" if origin.tokenizer is None else source_name(origin.tokenizer),
            "fingerprint": tokenizer_fingerprint(tokenizer),
        },
        "data": {
            "name": f"{source_name(origin.data)}, {len(rows):,} rows{texts}",
            "fingerprint": rows.facts.fingerprint,
        },
        "dev": {
            "name": "none" if dev is None else source_name(origin.dev),
            "fingerprint": "" if dev is None else dev.fingerprint,
        },
        "processes": {"name": "", "fingerprint": str(world()[1])},
    }


def check_inputs(folder: Path, inputs: dict[str, Any], *, finished: bool) -> None:
    """Check that the run in a folder was begun with the same inputs, those of :func:`describe_inputs`.

    Where its encoder is ``finished``, it does not matter how many processes there are now.

    Raises:
        ValueError: if it was not, naming what differs, or if there is no record to tell by.
    """
    path = folder / INPUTS_FILE
    if not path.exists():
        raise ValueError(
            f"{str(folder)!r} has no {INPUTS_FILE}, so nothing tells which backbone and data its run was begun with: "
            "overwrite=True starts anew, or choose another folder"
        )
    begun = json.loads(path.read_text(encoding="utf-8"))
    differ = [
        f"{what} {_told(now)} instead of {_told(begun.get(what, {}))}"
        for what, now in inputs.items()
        if now["fingerprint"] != begun.get(what, {}).get("fingerprint") and not (finished and what == "processes")
    ]
    if differ:
        raise ValueError(
            f"{str(folder)!r} was begun with other inputs, so it cannot be resumed with {'; '.join(differ)}: "
            "overwrite=True starts anew, or choose another folder"
        )


def _told(entry: dict[str, str]) -> str:
    name, fingerprint = entry.get("name", ""), entry.get("fingerprint", "")
    return " ".join(part for part in (name, f"[{fingerprint}]" if fingerprint and name else fingerprint) if part)


def source_name(source: Any) -> str:
    """What a data source is, in a few words, without the folders of this machine."""
    name = command_name(source)
    return f"`{name}`" if name else f"a {type(source).__name__}"


def command_name(source: Any) -> str | None:
    """A file or collection as the command line takes it, without the folders of this machine."""
    if isinstance(source, (str, os.PathLike)):
        return _short(source)
    name = getattr(source, "name", None)
    return _short(name) if isinstance(name, str) and hasattr(source, "corpus") else None


def _short(name: str | os.PathLike[str]) -> str:
    return os.fspath(name) if is_hub_name(name) else Path(name).name


def is_hub_name(backbone: Any) -> bool:
    """Whether a backbone or source is a name that is no path of this machine."""
    return isinstance(backbone, str) and not expand(backbone).exists() and not Path(backbone).is_absolute()
