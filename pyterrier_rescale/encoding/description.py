"""What an encoder is beside its model: how logits become weights, and where texts are cut. It travels whole.

A description is read from a folder or a hub name (:func:`.saved_folder.describe`), passed on as one thing, and written
back (:func:`.saved_folder.save_encoder`). One more option is one more field here, one place that uses it, and one line
in :mod:`.saved_folder` that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice, check_integer
from ..heads.fingerprint import model_fingerprint, settings_fingerprint, tokenizer_fingerprint
from ..heads.provenance import PROVENANCE
from ..heads.rescaling import check_shift

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POOLINGS = ("max", "sum")
ACTIVATIONS = ("relu", "log1p_relu")
FOLDS = ("case",)
# Entries of a model's config that say where it comes from, not what it computes.
_ABOUT = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype",
          "id2label", "label2id", "use_cache", PROVENANCE}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class QuerySide:
    """How queries are encoded; what is ``None`` is as of documents.

    Attributes:
        weights: static weights, (V,) float32, >= 0: a term's weight is its own, wherever it stands
            (arXiv:2411.04403), and no model is run.
        times_model: static weights are multiplied by the model's weights (splade-v3-lexical).
        model: another masked LM over the same vocabulary: a folder, or loaded.
        tokenizer: of static weights or of another model: a folder, or loaded.
    """

    pooling: str | None = None
    activation: str | None = None
    max_length: int | None = None
    weights: np.ndarray | None = None
    times_model: bool = False
    model: str | PreTrainedModel | None = None
    tokenizer: str | PreTrainedTokenizerBase | None = None

    @property
    def alike(self) -> bool:
        """Whether queries are encoded as documents are, but for their length."""
        return self.pooling is self.activation is self.weights is self.model is None

    @property
    def name(self) -> str:
        """For people: ``"static"``, ``"another model"``, or the pooling and activation that differ."""
        if self.weights is not None:
            return "static, times the model's" if self.times_model else "static"
        return "another model" if self.model is not None else " ".join(filter(None, (self.pooling, self.activation)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """How a masked LM's logits z become term weights; the fields are options of :class:`~pyterrier_rescale.Splade`.

    ``lowercase``, ``shift`` and ``special_terms`` say what is still to be done; once the tokenizer lower-cases and the
    head's bias holds the others, they are at their defaults. ``queries``: how queries are encoded otherwise.
    """

    pooling: str = "max"
    activation: str = "relu"
    max_length: int | None = None
    lowercase: bool = False
    shift: float | np.ndarray | None = None
    position_top_k: int | None = None
    fold: str | None = None
    special_terms: bool = True
    special_positions: bool = True
    queries: QuerySide = QuerySide()

    def __post_init__(self) -> None:
        """Check each field."""
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("fold", self.fold, (*FOLDS, None))
        for name in ("special_terms", "special_positions"):
            check_choice(name, getattr(self, name), (True, False))
        object.__setattr__(self, "shift", check_shift(self.shift))
        for name in ("max_length", "position_top_k"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), optional=True))
        side = self.queries
        same = [name for name in ("pooling", "activation", "max_length") if getattr(side, name) == getattr(self, name)]
        object.__setattr__(self, "queries", dataclasses.replace(side, **dict.fromkeys(same)))

    def replace(self, **fields: Any) -> Description:
        """The same with other values of some fields."""
        return dataclasses.replace(self, **fields)

    def of_queries(self) -> Description:
        """The description of queries as that of an encoder of its own."""
        side = self.queries
        own = {name: getattr(side, name) for name in ("pooling", "activation", "max_length")}
        return self.replace(queries=QuerySide(), **{name: value for name, value in own.items() if value is not None})

    def changed(self) -> dict[str, Any]:
        """The fields that are not the defaults, as plain JSON values."""
        found = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            value = "one for each term" if isinstance(value, np.ndarray) else value
            if f.name != "queries" and value != f.default:
                found[f.name] = value
        if not self.queries.alike:
            found["queries"] = self.queries.name
        if self.queries.max_length is not None:
            found["query_max_length"] = self.queries.max_length
        return found


def encoder_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, description: Description) -> str:
    """Sixteen hex digits of all that the vectors of documents and queries depend on.

    A saved folder and what it was saved from have the same; batch sizes and the device do not count.
    """
    side = description.queries
    parts: list[Any] = [model_fingerprint(model), config_content(model), tokenizer_fingerprint(tokenizer)]
    parts.append(description.changed())
    if side.weights is not None:
        parts.append(hashlib.sha256(side.weights.astype("<f4").tobytes()).hexdigest())
    if side.model is not None:
        parts += [model_fingerprint(side.model), config_content(side.model)]
    if side.tokenizer is not None:
        parts.append(tokenizer_fingerprint(side.tokenizer))
    return settings_fingerprint(parts)


def config_content(model: PreTrainedModel) -> Any:
    """What a model's config says about what it computes, as plain JSON values."""
    content = {key: value for key, value in model.config.to_dict().items() if key not in _ABOUT}
    return json.loads(json.dumps(content, default=str))  # keys as they are after a load
