"""Every option of a training run in one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.checks import check_choice, check_integer, check_number, is_number
from .._utils.files import expand, write_whole
from ..encoding.description import ACTIVATIONS, FOLDS, POOLINGS, Description
from ..encoding.saved_folder import describe
from ..heads.hub_files import modules_of
from ..heads.rescaling import check_shift
from .losses import LOSSES, Loss
from .recipes import with_recipe
from .regularizers import RAMPS, REGULARIZERS

#: Name of the configuration file in the output folder.
CONFIG_FILE = "train_config.json"
RESCALES = ("auto", "calibrated", "learned")
# Options that are fields of an encoder's description; with query_ before them those of its query side.
OF_QUERIES = ("pooling", "activation", "max_length")
DESCRIBED = (*OF_QUERIES, "position_top_k", "fold", "special_positions")
# Options that change what a run shows or how it gets there, not the weights that it ends with.
_HARMLESS = {"monitor", "log_steps", "save_steps", "device", "report_to", "gradient_checkpointing"}


def _option(default: Any, check: Callable[[str, Any], Any]) -> Any:
    """An option with its default, and the check that gives its value as a plain one; None stays where it is default."""
    return dataclasses.field(default=default, metadata={"check": check})


def _one_of(choices: Iterable[Any]) -> Callable[[str, Any], Any]:
    """Check for a choice; a table of losses or regularisers may grow later."""
    return lambda name, value: check_choice(name, value, choices)


def _rescale(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value in RESCALES):
        return value
    if not is_number(value) or value <= 0:
        raise ValueError(f"rescale must be None, a number > 0 or one of {', '.join(RESCALES)}, got {value!r}")
    return check_number(name, value)


def _shift(_: str, value: Any) -> Any:
    shift = check_shift(value)
    return tuple(shift.tolist()) if isinstance(shift, np.ndarray) else shift


def _losses(name: str, value: Any) -> Any:
    check = _one_of(LOSSES)
    return tuple(check(name, one) for one in value) if isinstance(value, (list, tuple)) else check(name, value)


def _weights(name: str, value: Any) -> Any:
    return tuple(check_number(name, one) for one in (value if isinstance(value, (list, tuple)) else [value]))


def _retriever(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be 'bm25' or an encoder's hub name or folder, got a {type(value).__name__}")
    return os.fspath(value)


def _tracker(name: str, value: Any) -> Any:
    from accelerate.tracking import get_available_trackers

    return check_choice(name, value, list(map(str, get_available_trackers())))


_count = partial(check_integer, least=0)
_weight = partial(check_number, zero=True)
_yes_or_no = _one_of((True, False))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of :func:`~pyterrier_rescale.train`, which documents them; plain JSON values, checked at creation."""

    rescale: float | str | None = _option(16.0, _rescale)
    loss: str | tuple[str, ...] = _option("infonce", _losses)
    loss_weights: tuple[float, ...] | None = _option(None, _weights)
    batch_size: int = _option(32, check_integer)
    learning_rate: float = _option(2e-5, check_number)
    max_steps: int | None = _option(None, check_integer)
    epochs: int = _option(1, check_number)
    lambda_q: float = _option(5e-4, _weight)
    lambda_d: float = _option(3e-4, _weight)
    regularizer: str = _option("flops", _one_of(REGULARIZERS))
    query_regularizer: str | None = _option(None, _one_of(REGULARIZERS))
    flops_threshold: int | None = _option(None, _count)
    ramp_steps: int = _option(1000, _count)
    ramp: str = _option("quadratic", _one_of(RAMPS))
    temperature: float = _option(1.0, check_number)
    max_length: int = _option(256, check_integer)
    query_max_length: int | None = _option(None, check_integer)
    pooling: str = _option("max", _one_of(POOLINGS))
    query_pooling: str | None = _option(None, _one_of(POOLINGS))
    activation: str = _option("relu", _one_of(ACTIVATIONS))
    query_activation: str | None = _option(None, _one_of(ACTIVATIONS))
    queries: str = _option("model", _one_of(("model", "static")))
    lowercase: bool = _option(False, _yes_or_no)
    min_label: int = _option(1, check_integer)
    negatives: int | None = _option(None, _count)
    mine_negatives: int = _option(0, _count)
    retriever: str = _option("bm25", _retriever)
    negative_margin: float | None = _option(None, _weight)
    warmup_steps: int | None = _option(None, _count)
    weight_decay: float = _option(0.01, _weight)
    max_grad_norm: float = _option(1.0, _weight)
    scale_learning_rate: float = _option(1e-2, check_number)
    static_learning_rate: float = _option(1e-3, _weight)
    gradient_accumulation: int = _option(1, check_integer)
    mini_batch_size: int | None = _option(None, check_integer)
    gradient_checkpointing: bool = _option(False, _yes_or_no)
    lora_rank: int | None = _option(None, check_integer)
    bf16: bool = _option(False, _yes_or_no)
    seed: int = _option(0, _count)
    monitor: bool | str = _option(True, _one_of((True, False, "warn")))
    log_steps: int = _option(1, check_integer)
    save_steps: int = _option(500, _count)
    eval_steps: int | None = _option(None, check_integer)
    device: str | None = _option(None, _one_of(("cpu", "cuda", "mps")))
    report_to: str | None = _option(None, _tracker)
    shift: float | tuple[float, ...] | None = _option(None, _shift)
    position_top_k: int | None = _option(None, check_integer)
    fold: str | None = _option(None, _one_of(FOLDS))
    special_positions: bool = _option(True, _yes_or_no)
    bias_learning_rate: float | None = _option(None, _weight)
    attention: str | None = _option(None, _one_of(("causal", "bidirectional")))

    def __post_init__(self) -> None:
        """Check every value; numpy's numbers become Python's, which JSON can hold."""
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))
        of_model = [name for name in ("query_pooling", "query_activation", "query_regularizer") if getattr(self, name)]
        for wrong, why in (
            (self.queries == "static" and of_model, f"{', '.join(of_model)} must be None for queries='static'"),
            (self.shift is not None and self.rescale == "calibrated",
             "shift must be None with rescale='calibrated', which measures a shift of each term"),
            (self.loss_weights and len(self.losses) != len(self.loss_weights),
             f"loss_weights must be one for each loss of {self.loss!r}, got {self.loss_weights!r}"),
            (self.mine_negatives and any(loss.needs_scores for loss in self.losses),
             f"mine_negatives has no teacher scores to give to loss={self.loss!r}: score the data first"),
            (self.lora_rank and self.bias_learning_rate,
             "bias_learning_rate must be None or 0 with lora_rank, which leaves the head's bias as it is"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(why)

    @property
    def losses(self) -> list[type[Loss]]:
        """The classes that ``loss`` names."""
        return [LOSSES[name] for name in ([self.loss] if isinstance(self.loss, str) else self.loss)]

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide the trained weights, as JSON gives them back."""
        return {name: value for name, value in json.loads(json.dumps(self.to_dict())).items() if name not in _HARMLESS}

    def check_dev(self, dev: Any) -> None:
        """Raise ``ValueError`` where ``eval_steps`` is given and there is nothing to evaluate on."""
        if self.eval_steps is not None and dev is None:
            raise ValueError(f"eval_steps={self.eval_steps} goes with dev, which is evaluated then: give dev, too")

    @classmethod
    def from_json(cls, path: str | Path) -> TrainConfig:
        """Read a configuration that :meth:`to_json` wrote."""
        return cls.from_dict(json.loads(expand(path).read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """A configuration from plain values, those of a ``recipe`` below them; ``ValueError`` for what is no option."""
        values, names = with_recipe(values), [option.name for option in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
            raise ValueError(f"no training option is called {', '.join(unknown)}{hint}")
        config = cls(**values)
        object.__setattr__(config, "_asked", set(values))
        return config

    def to_dict(self) -> dict[str, Any]:
        """All options as plain values."""
        return dataclasses.asdict(self)

    def changed(self) -> dict[str, Any]:
        """The options that are not the defaults."""
        return {name: value for name, value in self.to_dict().items() if value != getattr(TrainConfig, name)}

    def asked(self) -> dict[str, Any]:
        """The options that were given: those of a file or dict, or else those that are not the defaults."""
        values, names = self.to_dict(), vars(self).get("_asked", self.changed())
        return {name: value for name, value in values.items() if name in names}

    def to_json(self, path: str | Path) -> None:
        """Write all options to a JSON file."""
        write_whole(expand(path), json.dumps(self.to_dict(), indent=2) + "\n")


def saved_options(backbone: Any) -> dict[str, Any]:
    """The options that an encoder's folder or hub name was saved with, which its training keeps; else none."""
    found, default = describe(backbone), Description()
    side = found.queries
    if side.model is not None or side.times_model or side.tokenizer is not None:
        raise ValueError(f"{str(backbone)!r} encodes queries with {side.name}, which train does not train")
    options = {name: getattr(found, name) for name in (*DESCRIBED, "lowercase", "shift")
               if getattr(found, name) is not getattr(default, name)}  # fmt: skip
    options |= {f"query_{name}": getattr(side, name) for name in OF_QUERIES if getattr(side, name) is not None}
    if isinstance(backbone, (str, os.PathLike)) and modules_of(backbone) is not None:
        options["rescale"] = None
    return options | ({"queries": "static"} if side.weights is not None else {})
