"""What a comparison compares: a backbone, a rescaling, trained or not; and how each is named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._utils.files import expand

_NAMED = ("auto", "calibrated", "learned")
#: In the place of a rescaling: of an encoder that is trained already.
GIVEN = "as given"


@dataclass(frozen=True)
class System:
    """One row of a comparison: an encoder made of a backbone, or one that was given."""

    backbone: str  # its name
    rescale: float | str | None
    trained: bool = True  # whether SPLADE training followed

    @property
    def given(self) -> bool:
        """Whether it is an encoder that is only indexed and scored."""
        return self.rescale == GIVEN

    @property
    def name(self) -> str:
        """Its row, run file and folders, e.g. ``modernbert k=16`` or ``bert raw (untrained)``."""
        label = "" if self.given else f" {rescale_label(self.rescale)}"
        return f"{self.backbone}{label}{'' if self.trained else ' (untrained)'}"

    @property
    def twin(self) -> str:
        """Name of the row that it is tested against: the raw head of its backbone; of a given encoder BM25."""
        return "BM25" if self.given else System(self.backbone, None, self.trained).name


def rescale_label(rescale: float | str | None) -> str:
    """``raw``, ``k=16``, ``auto``, ``calibrated`` or ``learned``; another label for every number."""
    if rescale is None:
        return "raw"
    if isinstance(rescale, str):
        return rescale
    short = f"{rescale:g}"
    return f"k={short if float(short) == rescale else repr(float(rescale))}"


def parse_rescale(value: float | str | None) -> float | str | None:
    """What a user types for a rescaling, as a value: ``none`` or ``raw``, a number, or one of the named ones."""
    from .._utils.checks import check_number

    if value is None or value in ("none", "None", "raw"):
        return None
    if value in _NAMED:
        return value
    try:
        return float(check_number("k", float(value) if isinstance(value, str) else value))
    except (ValueError, TypeError) as error:
        raise ValueError(f"rescale must be none, a number > 0, {', '.join(_NAMED)}; got {value!r}") from error


def check_backbones(backbones: Mapping[str, Any]) -> dict[str, Any]:
    """Backbones by name as folders or hub names, those that are encoders as ``Splade``; names must be fit for files."""
    from pyterrier.io import ok_filename

    from ..heads.checkpoint import check_source
    from ..heads.hub_files import modules_of
    from ..splade import Splade

    if not isinstance(backbones, Mapping) or not backbones:
        raise TypeError(f"backbones must be a dict of name -> folder or hub name, with one at least, got {backbones!r}")
    checked = {}
    for name, model in backbones.items():
        if not isinstance(name, str) or name != name.strip() or not name or not ok_filename(name):
            raise ValueError(f"the name of a backbone must be fit to name files (no /, :, %, <, >), got {name!r}")
        if not hasattr(model, "doc_encoder"):
            if not isinstance(model, (str, os.PathLike)):
                raise TypeError(f"backbone {name!r} must be a folder, hub name or Splade, got {type(model).__name__}")
            model = check_source(model, "backbone")
            model = model if modules_of(model) is None else Splade(model)
        checked[name] = model
    return checked


def named_backbones(items: Sequence[str]) -> dict[str, str]:
    """``NAME=MODEL`` or ``MODEL`` items of a command line as ``{name: model}``; a model is named by its last part."""
    models: dict[str, str] = {}
    for item in items:
        name, equals, model = item.partition("=")
        if not equals:
            name, model = expand(item).resolve().name, item
        if name in models:
            raise ValueError(f"two backbones are called {name!r}, {models[name]!r} and {model!r}: give NAME=MODEL")
        models[name] = model
    return models
