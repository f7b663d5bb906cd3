"""The model that training starts from: the backbone, its head rescaled as asked."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.sampling import spread
from ..analysis.calibration import calibrate
from ..encoding.description import Description, QuerySide
from ..encoding.lexical import token_statistics
from ..encoding.saved_folder import describe
from ..encoding.texts import check_max_length, lowercasing
from ..heads.checkpoint import check_reloadable, load_backbone
from ..heads.decoder import check_head, find_head, mean_row_norm, padding_error
from ..heads.provenance import record, refuse_rescaled
from ..heads.rescaling import check_shift, rescale, shift_logits
from ..heads.ties import untie
from .config import DESCRIBED, OF_QUERIES, TrainConfig
from .model import SparseHead
from .monitor import not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .rows import Rows

#: Where a learned k starts: the paper's constant.
LEARNED_START = 16.0
# Pairs that calibration looks at, and rows whose documents give the IDF, spread evenly over the training data.
_CALIBRATION_PAIRS, _IDF_ROWS = 512, 50_000
# Share of texts in which a calibrated term fires; one text where there are few.
_FIRING_RATE = 0.03
# What padding may do to a text's logits: ConvBERT's convolutions move them by some thousandths at a text's end.
_PADDING_ERROR = 0.05


def starting_module(backbone: Any, tokenizer: Any, rows: Rows, config: TrainConfig) -> SparseHead:
    """What training starts from: a backbone (a loaded one is copied, never changed), its head rescaled."""
    model, tokenizer = starting_model(backbone, tokenizer, config)
    return trainable(model, tokenizer, rows, config, starting_description(backbone, model, tokenizer, rows, config))


def starting_model(backbone: Any, tokenizer: Any, config: TrainConfig) -> tuple[PreTrainedModel, Any]:
    """The backbone as it is (a copy of a loaded one) and the tokenizer, both found fit for the options."""
    model, tokenizer = load_backbone(backbone, tokenizer, attention=config.attention)
    check_reloadable(model)
    if model is backbone:
        model = copy.deepcopy(model)
    error, broken = padding_error(model, check_head(model)), not_finite(model)
    if error > _PADDING_ERROR:
        raise ValueError(
            f"{type(model).__name__} cannot be trained in batches: its tokens see the padding, which moves the logits "
            f"of a text by {error:.0%} of the largest"
        )
    if broken:
        raise ValueError(f"backbone holds NaN or infinity in {broken}: no training mends it; load another copy")
    for length in (config.max_length, config.query_max_length):
        if length is not None:
            check_max_length(length, model, tokenizer)
    return model, lowercasing(tokenizer) if config.lowercase else tokenizer


def trainable(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig, description: Description
) -> SparseHead:
    """Shift and rescale the head of a model that may be changed, and wrap it for training."""
    shift, how = check_shift(config.shift), config.rescale
    if shift is not None:
        shift_logits(model, shift, inplace=True)  # first, so that ``rescale="auto"`` measures what it gives
    if how == "learned":
        refuse_rescaled(model)
        before = mean_row_norm(find_head(model).weight)
        untie(model)
        record(model, k=LEARNED_START, method=how, bias=False, mean_row_norm_before=before)
    elif isinstance(how, str):
        pairs, margin = sample_pairs(rows), None
        if any(loss.needs_scores for loss in config.losses):  # margins begin as the teacher's (root mean square)
            scores = [rows[int(place)].scores or () for place in spread(len(rows), _CALIBRATION_PAIRS)]
            margin = float(np.sqrt(np.mean([(own[0] - other) ** 2 for own in scores for other in own[1:]])))
            scaled = any(loss.scaled_margins for loss in config.losses)
            margin = max(margin, 1e-3) * (config.temperature if scaled else 1.0)
        calibrate(
            model, pairs, tokenizer=tokenizer, offset=how == "calibrated", rate=max(_FIRING_RATE, 1 / len(pairs)),
            margin=margin, temperature=config.temperature, max_length=config.max_length,
            encoding=description, device=config.device,
        ).apply(model, inplace=True)  # fmt: skip
    elif how is not None:
        rescale(model, how, inplace=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    if config.lora_rank is not None:  # arXiv:2106.09685; all but the head, the rest of the model stays as it is
        from peft import LoraConfig, inject_adapter_in_model

        torch.manual_seed(config.seed)
        lora = LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear")
        inject_adapter_in_model(lora, model)
    return SparseHead(model, tokenizer, description, learned_k=LEARNED_START if how == "learned" else None)


def starting_description(
    backbone: Any, model: PreTrainedModel, tokenizer: Any, rows: Rows, config: TrainConfig
) -> Description:
    """How texts are encoded at the first step; static queries with the weights of their folder, or with their IDF."""
    weights = None
    if config.queries == "static":
        weights = describe(backbone).queries.weights
        weights = idf_weights(rows, tokenizer, config.max_length) if weights is None else weights
        weights = np.pad(weights, (0, len(find_head(model).weight) - len(weights)))  # 0 where there is no token
    queries = QuerySide(**{name: getattr(config, f"query_{name}") for name in OF_QUERIES}, weights=weights)
    return Description(**{name: getattr(config, name) for name in DESCRIBED}, queries=queries)


def idf_weights(rows: Rows, tokenizer: Any, max_length: int) -> np.ndarray:
    """BM25's ln(1 + (N - n_v + 1/2) / (n_v + 1/2)) of every token over N training documents, (V,); special ones: 0."""
    documents = list({text: None for place in spread(len(rows), _IDF_ROWS) for text in rows[int(place)].documents})
    return token_statistics(tokenizer, documents, max_length).idf.astype(np.float32)


def sample_pairs(rows: Rows, size: int = _CALIBRATION_PAIRS) -> list[tuple[str, str]]:
    """At most ``size`` pairs of query and positive, spread evenly over all rows, each document once."""
    looked_at = (rows[int(place)] for place in spread(len(rows), 16 * size))  # rows may share documents
    pairs = [(query, document) for document, query in {row.documents[0]: row.query for row in looked_at}.items()]
    return [pairs[place] for place in spread(len(pairs), size)]
