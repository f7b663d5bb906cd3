"""What a comparison compares: a backbone, a rescaling, trained or not; how each is named, in tables and on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._utils.names import slug
from .._utils.paths import expand

NAMED_RESCALINGS = ("auto", "calibrated", "learned")
# pt.Experiment names files by the rows' names; file systems take 255 bytes.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class System:
    """One row of a comparison.

    Attributes:
        backbone: name of the backbone.
        rescale: ``None``, a number, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        trained: whether SPLADE training followed.
    """

    backbone: str
    rescale: float | str | None
    trained: bool = True

    @property
    def name(self) -> str:
        """What the table shows, e.g. ``modernbert k=16`` or ``bert raw (untrained)``."""
        return f"{self.backbone} {rescale_label(self.rescale)}{'' if self.trained else ' (untrained)'}"

    @property
    def twin(self) -> str:
        """Name of the unrescaled system that this one is tested against."""
        return System(self.backbone, None, self.trained).name

    @property
    def folder(self) -> str:
        """Name of its folders, another one for every system, e.g. ``modernbert-k-16`` or ``bert-raw-untrained``."""
        label = rescale_label(self.rescale).replace("=", "-").replace("+", "")
        return f"{slug(self.backbone)}-{label}{'' if self.trained else '-untrained'}"


def rescale_label(rescale: float | str | None) -> str:
    """``raw``, ``k=16``, ``auto``, ``calibrated`` or ``learned``; another label for every number."""
    if rescale is None:
        return "raw"
    if isinstance(rescale, str):
        return rescale
    short = f"{rescale:g}"
    return f"k={short if float(short) == rescale else repr(float(rescale))}"


def parse_rescale(value: float | str | None) -> float | str | None:
    """What a user types for a rescaling, as a value: ``none`` or ``raw``, a number, or one of the named ones.

    Raises:
        ValueError: for anything else.
    """
    from ..heads.rescaling import check_k

    if value is None or str(value).lower() in ("none", "raw", ""):
        return None
    if str(value) in NAMED_RESCALINGS:
        return str(value)
    try:
        return check_k(float(value) if isinstance(value, str) else value)
    except (ValueError, TypeError):
        raise ValueError(
            f"rescale must be none, a number > 0, {', '.join(NAMED_RESCALINGS)}; got {value!r}"
        ) from None


def check_backbones(backbones: Mapping[str, Any]) -> None:
    """Check that every name can name rows, run files and folders, before anything is computed.

    Raises:
        TypeError: for a name or model of another type.
        ValueError: for no backbones, or a name that cannot be used.
    """
    from pyterrier.io import ok_filename

    if not isinstance(backbones, Mapping):
        raise TypeError(f"backbones must be a dict of name -> model, got {type(backbones).__name__}")
    if not backbones:
        raise ValueError("backbones must hold at least one name -> model, got none")
    for name, model in backbones.items():
        if not isinstance(name, str):
            raise TypeError(f"names of backbones must be str, got {name!r}")
        if not isinstance(model, (str, os.PathLike)):
            raise TypeError(f"backbone {name!r} must be a folder or a hub name, got {type(model).__name__}")
        bad = "".join(sorted({c for c in name if c == "\\" or not (c.isprintable() and ok_filename(c))}))
        if bad or not name.strip() or name != name.strip():
            raise ValueError(
                f"the name of a backbone names files, so it must not be blank, nor hold {bad or 'outer blanks'!r}; "
                f"got {name!r}"
            )
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a backbone's name must have at most {_LONGEST_NAME} bytes, got {name!r}")


def named_backbones(items: Sequence[str]) -> dict[str, str]:
    """``NAME=MODEL`` or ``MODEL`` items of a command line as ``{name: model}``.

    A model without a name gets the last part of its path, and as many parts before it as tell it from the others. An
    item that is a path as a whole, or has a slash before its first ``=``, is a model.

    Raises:
        ValueError: for an empty name or model, or where two have the same name.
    """
    pairs: list[tuple[str | None, str]] = []
    for item in items:
        name, equals, model = item.partition("=")
        if not equals or "/" in name or os.sep in name or expand(item).exists():
            pairs.append((None, item))
        elif name and model:
            pairs.append((name, model))
        else:
            raise ValueError(f"a backbone must be NAME=MODEL or MODEL, got {item!r}")
    short = iter(short_names([model for name, model in pairs if name is None]))
    named = [(next(short) if name is None else name, model) for name, model in pairs]
    models: dict[str, str] = {}
    for name, model in named:
        if name in models:
            raise ValueError(
                f"two backbones have the name {name!r}, {models[name]!r} and {model!r}: give them names, as NAME=MODEL"
            )
        models[name] = model
    return models


def short_names(models: Sequence[str]) -> list[str]:
    """The last part of each model's path or hub name, with parts before it (joined by ``_``) where they are needed.

    Models that are the same, or alike in all parts, get the same name.
    """
    parts = [_parts(model) for model in models]
    names: list[str] = []
    for own in parts:
        others = [other for other in parts if other != own]
        length = next((n for n in range(1, len(own)) if own[-n:] not in [other[-n:] for other in others]), len(own))
        names.append("_".join(own[-length:]))
    return names


def _parts(model: str) -> tuple[str, ...]:
    path = Path(model)
    if path.name in ("", "..") or model.startswith("~"):
        path = expand(path).resolve()
    return tuple(part for part in path.parts if part.strip("/\\")) or (model,)
