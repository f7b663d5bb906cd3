"""Every option of a training run in one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.checks import check_choice, check_integer, check_number
from .._utils.files import expand, write_whole
from ..encoding.description import ACTIVATIONS, FOLDS, POOLINGS, Description, QuerySide
from ..encoding.saved_folder import describe
from ..heads.fingerprint import settings_fingerprint
from ..heads.rescaling import check_shift
from .losses import LOSSES
from .regularizers import RAMPS, REGULARIZERS

#: Name of the configuration file in the output folder.
CONFIG_FILE = "train_config.json"
RESCALES = ("auto", "calibrated", "learned")
# Options that change what a run shows or how it gets there, not the weights that it ends with.
_HARMLESS = {"monitor", "log_steps", "save_steps", "device", "report_to", "gradient_checkpointing"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of :func:`~pyterrier_rescale.train`, which documents them; plain JSON values, checked at creation.

    Raises:
        ValueError, TypeError: for a value that cannot be used, naming the option.
    """

    rescale: float | str | None = 16.0
    loss: str = "infonce"
    batch_size: int = 32
    learning_rate: float = 2e-5
    max_steps: int | None = None
    epochs: int = 1
    lambda_q: float = 5e-4
    lambda_d: float = 3e-4
    regularizer: str = "flops"
    query_regularizer: str | None = None
    ramp_steps: int = 1000
    ramp: str = "quadratic"
    temperature: float = 1.0
    max_length: int = 256
    query_max_length: int | None = None
    pooling: str = "max"
    query_pooling: str | None = None
    activation: str = "relu"
    query_activation: str | None = None
    queries: str = "model"
    lowercase: bool = False
    min_label: int = 1
    negatives: int | None = None
    mine_negatives: int = 0
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    scale_learning_rate: float = 1e-2
    static_learning_rate: float = 1e-3
    gradient_accumulation: int = 1
    mini_batch_size: int | None = None
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = 0
    monitor: bool | str = True
    log_steps: int = 1
    save_steps: int = 500
    eval_steps: int | None = None
    device: str | None = None
    report_to: str | None = None
    shift: float | tuple[float, ...] | None = None
    position_top_k: int | None = None
    fold: str | None = None
    special_positions: bool = True
    bias_learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Check every value; numpy's numbers become Python's, which JSON can hold."""
        for name, check in _checks().items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for wrong, why in (
            *((self.queries == "static" and getattr(self, name) is not None,
               f"{name} must be None for queries='static', got {getattr(self, name)!r}")
              for name in ("query_pooling", "query_activation", "query_regularizer")),
            (self.shift is not None and self.rescale == "calibrated",
             "shift must be None with rescale='calibrated', which measures a shift of each term"),
            (self.mine_negatives and LOSSES[self.loss].needs_scores,
             f"mine_negatives has no teacher scores to give to loss={self.loss!r}; use loss='infonce'"),
            (self.seed >= 2**32, f"seed must be below 2**32, got {self.seed}"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(why)

    def description(self, query_weights: np.ndarray | None = None) -> Description:
        """How the encoder's logits become weights; shift and lower-casing are done to model and tokenizer before."""
        return Description(
            pooling=self.pooling, activation=self.activation, max_length=self.max_length,
            position_top_k=self.position_top_k, fold=self.fold, special_positions=self.special_positions,
            queries=QuerySide(
                pooling=self.query_pooling, activation=self.query_activation, max_length=self.query_max_length,
                weights=query_weights,
            ),
        )  # fmt: skip

    @property
    def query_lambda(self) -> float:
        """``lambda_q``; 0 for static queries, whose terms are those of the text whatever their weights."""
        return 0.0 if self.queries == "static" else self.lambda_q

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that decide the trained weights, as plain values; of a shift for each term a fingerprint."""
        shift = settings_fingerprint(self.shift) if isinstance(self.shift, tuple) else self.shift
        return {name: value for name, value in {**self.to_dict(), "shift": shift}.items() if name not in _HARMLESS}

    def check_dev(self, dev: Any) -> None:
        """Raise ``ValueError`` where ``eval_steps`` is given and there is nothing to evaluate on."""
        if self.eval_steps is not None and dev is None:
            raise ValueError(f"eval_steps={self.eval_steps} goes with dev, which is evaluated then: give dev, too")

    @classmethod
    def from_json(cls, path: str | Path) -> TrainConfig:
        """Read a configuration that :meth:`to_json` wrote; unknown options are an error."""
        values = json.loads(expand(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{str(path)!r} must hold a JSON object of options, got {type(values).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """A configuration from plain values.

        Raises:
            ValueError: for a name that is no option, listing those that are.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ValueError(f"no training option is called {', '.join(unknown)}; there are {', '.join(names)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All options as plain values."""
        return dataclasses.asdict(self)

    def to_json(self, path: str | Path) -> None:
        """Write all options to a JSON file."""
        write_whole(expand(path), json.dumps(self.to_dict(), indent=2) + "\n")


def _checks() -> dict[str, Callable[[str, Any], Any]]:
    """What checks each option, and returns it as a plain value; losses and regularisers may be added at any time."""

    def one_of(*choices: Any) -> Callable[[str, Any], Any]:
        return partial(check_choice, choices=choices)

    maybe = partial(check_integer, optional=True)
    by_check = (
        (_check_rescale, "rescale"), (_check_shift, "shift"), (_check_bias_rate, "bias_learning_rate"),
        (one_of(None, *FOLDS), "fold"),
        (one_of(True, False, "warn"), "monitor"), (one_of(None, "cpu", "cuda", "mps"), "device"),
        (one_of(*POOLINGS), "pooling"), (one_of(None, *POOLINGS), "query_pooling"),
        (one_of(*ACTIVATIONS), "activation"), (one_of(None, *ACTIVATIONS), "query_activation"),
        (one_of(*sorted(REGULARIZERS)), "regularizer"), (one_of(None, *sorted(REGULARIZERS)), "query_regularizer"),
        (one_of(*sorted(LOSSES)), "loss"), (one_of(*RAMPS), "ramp"), (one_of("model", "static"), "queries"),
        (one_of(True, False), "lowercase bf16 gradient_checkpointing special_positions"),
        (check_integer, "batch_size max_length gradient_accumulation log_steps min_label"),
        (partial(check_integer, least=0), "ramp_steps mine_negatives seed save_steps"),
        (maybe, "max_steps query_max_length mini_batch_size eval_steps position_top_k"),
        (partial(maybe, least=0), "warmup_steps negatives"),
        (check_number, "learning_rate temperature scale_learning_rate static_learning_rate epochs"),
        (partial(check_number, zero=True), "lambda_q lambda_d weight_decay max_grad_norm"),
    )  # fmt: skip
    return {name: check for check, names in by_check for name in names.split()}


def saved_options(backbone: Any) -> dict[str, Any]:
    """The options that an encoder's folder or hub name was saved with, which its training keeps; else none.

    Raises:
        ValueError: if it was saved with what is not trained, naming it.
    """
    found = describe(backbone)
    side, default = found.queries, Description()
    if side.model is not None or side.times_model or side.tokenizer is not None:
        raise ValueError(f"{str(backbone)!r} encodes queries with {side.name}, which train does not train")
    names = ("pooling", "activation", "max_length", "lowercase", "shift", "position_top_k", "fold",
             "special_positions")  # fmt: skip
    options = {name: getattr(found, name) for name in names if getattr(found, name) is not getattr(default, name)}
    asked = {f"query_{name}": getattr(side, name) for name in ("pooling", "activation", "max_length")}
    options |= {name: value for name, value in asked.items() if value is not None}
    return options | ({"queries": "static"} if side.weights is not None else {})


def shown(value: Any) -> Any:
    """An option's value for people: a number for each term is told by their count."""
    return f"one for each of {len(value)} terms" if isinstance(value, tuple) else value


def _check_rescale(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value in RESCALES):
        return value
    try:
        return check_number(name, value)
    except ValueError:
        raise ValueError(f"rescale must be None, a number > 0 or one of {', '.join(RESCALES)}, got {value!r}") from None


def _check_bias_rate(name: str, value: Any) -> Any:
    return None if value is None else check_number(name, value, zero=True)


def _check_shift(_: str, value: Any) -> Any:
    shift = check_shift(value)
    return tuple(shift.tolist()) if isinstance(shift, np.ndarray) else shift
