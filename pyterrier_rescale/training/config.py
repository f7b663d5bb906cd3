"""Every option of a training run in one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.checks import check_integer, check_number
from .._utils.durable import write_whole
from .._utils.paths import expand
from ..encoding.description import POOLINGS, Description, QuerySide
from ..heads.rescaling import check_shift
from .activations import KEPT
from .losses import LOSSES
from .regularizers import RAMPS, REGULARIZERS

#: Name of the configuration file in the output folder.
CONFIG_FILE = "train_config.json"
RESCALES = ("auto", "calibrated", "learned")
QUERIES = ("model", "static")
MONITORS = (True, False, "warn")
ACTIVATIONS = ("auto", *KEPT)
_set = object.__setattr__  # in a frozen class: numpy's numbers become Python's, which JSON can hold


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
    queries: str = "model"
    lowercase: bool = False
    negatives: int | None = None
    mine_negatives: int = 0
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    scale_learning_rate: float = 1e-2
    static_learning_rate: float = 1e-3
    gradient_accumulation: int = 1
    mini_batch_size: int | None = None
    activations: str = "auto"
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
    bias_learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        _set(self, "rescale", _checked_rescale(self.rescale))
        _choice("loss", self.loss, LOSSES)
        _choice("regularizer", self.regularizer, REGULARIZERS)
        _choice("ramp", self.ramp, RAMPS)
        _choice("pooling", self.pooling, POOLINGS)
        _choice("queries", self.queries, QUERIES)
        _choice("activations", self.activations, ACTIVATIONS)
        for name, choices, without in (
            ("query_pooling", POOLINGS, "pool nothing"), ("query_regularizer", REGULARIZERS, "are not regularised"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                _choice(name, value, choices)
                if self.queries == "static":
                    raise ValueError(f"{name} must be None for queries='static', which {without}, got {value!r}")
        if self.monitor not in MONITORS or isinstance(self.monitor, int) and not isinstance(self.monitor, bool):
            raise ValueError(f"monitor must be True, False or 'warn', got {self.monitor!r}")
        for name in ("batch_size", "max_length", "gradient_accumulation", "log_steps"):
            _set(self, name, check_integer(name, getattr(self, name)))
        for name in ("max_steps", "query_max_length", "negatives", "mini_batch_size", "eval_steps"):
            _set(self, name, check_integer(name, getattr(self, name), 0 if name == "negatives" else 1, optional=True))
        _set(self, "warmup_steps", check_integer("warmup_steps", self.warmup_steps, 0, optional=True))
        for name in ("ramp_steps", "mine_negatives", "seed", "save_steps"):
            _set(self, name, check_integer(name, getattr(self, name), 0))
        for name in ("learning_rate", "temperature", "scale_learning_rate", "static_learning_rate", "epochs"):
            _set(self, name, check_number(name, getattr(self, name)))
        if self.bias_learning_rate is not None:
            _set(self, "bias_learning_rate", check_number("bias_learning_rate", self.bias_learning_rate, zero=True))
        for name in ("lambda_q", "lambda_d", "weight_decay", "max_grad_norm"):
            _set(self, name, check_number(name, getattr(self, name), zero=True))
        shift = check_shift(self.shift)
        _set(self, "shift", tuple(shift.tolist()) if isinstance(shift, np.ndarray) else shift)
        if shift is not None and self.rescale == "calibrated":
            raise ValueError("shift must be None with rescale='calibrated', which measures a shift of each term")
        _set(self, "position_top_k", self.description().position_top_k)
        if self.mine_negatives and LOSSES[self.loss].needs_scores:
            raise ValueError(f"mine_negatives has no teacher scores to give to loss={self.loss!r}; use loss='infonce'")
        if self.mini_batch_size is not None and self.activations not in ("auto", "all"):
            raise ValueError(
                f"activations must be 'auto' or 'all' with mini_batch_size={self.mini_batch_size}, which computes "
                f"whole mini-batches again, got {self.activations!r}"
            )
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}")
        if self.device not in (None, "cpu", "cuda", "mps"):
            raise ValueError(f"device must be None, 'cpu', 'cuda' or 'mps', got {self.device!r}")
        for name in ("bf16", "lowercase"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def check_dev(self, dev: Any) -> None:
        """Raise ``ValueError`` where ``eval_steps`` is given and there is nothing to evaluate on."""
        if self.eval_steps is not None and dev is None:
            raise ValueError(f"eval_steps={self.eval_steps} goes with dev, which is evaluated then: give dev, too")

    def description(self, query_weights: np.ndarray | None = None) -> Description:
        """How the encoder's logits become weights, as the options say; shift and lower-casing are done before."""
        queries = QuerySide(pooling=self.query_pooling, max_length=self.query_max_length, weights=query_weights)
        return Description(
            pooling=self.pooling, max_length=self.max_length, position_top_k=self.position_top_k, fold=self.fold,
            queries=queries,
        )  # fmt: skip

    @property
    def query_lambda(self) -> float:
        """``lambda_q``; 0 for static queries, whose terms are those of the text whatever their weights."""
        return 0.0 if self.queries == "static" else self.lambda_q

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

    def differences(self, other: TrainConfig) -> list[str]:
        """Options that differ and would change the weights, as ``name: ours instead of theirs``."""
        harmless = {"monitor", "log_steps", "save_steps", "device", "report_to", "activations"}
        return [
            f"{name}={shown(value)} instead of {shown(getattr(other, name))}"
            for name, value in self.to_dict().items()
            if name not in harmless and value != getattr(other, name)
        ]


def shown(value: Any) -> str:
    """An option's value for people: a number for each term is told by their count."""
    return f"one for each of {len(value)} terms" if isinstance(value, tuple) else repr(value)


def _checked_rescale(rescale: Any) -> Any:
    if rescale is None or (isinstance(rescale, str) and rescale in RESCALES):
        return rescale
    try:
        return check_number("rescale", rescale)
    except ValueError:
        raise ValueError(
            f"rescale must be None, a finite number > 0 or one of {', '.join(RESCALES)}, got {rescale!r}"
        ) from None


def _choice(name: str, value: Any, choices: Any) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(sorted(choices))}, got {value!r}")
