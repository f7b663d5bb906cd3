"""Measure an MLM head before a night of training: what is wrong with it, if anything, and what helps.

Four diseases look alike from outside (a SPLADE that does not train) and are told apart here:

- scale mismatch: scores spread over many temperatures, and the softmax saturates (or over none). Cure: k.
- dense start: an offset that MLM pretraining leaves undetermined makes most terms fire. Cure: a shift per term.
- sink: special positions ([CLS], [SEP]) win the max of most terms. Cure: the shift, as far as content rises above it.
- anisotropic: the vectors t of different texts point the same way. No k and no shift cures it: take another backbone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_number
from .._utils.defaults import MAX_POOLING
from ..encoding.saved_settings import as_saved
from ..heads.checkpoint import load_backbone
from ..heads.decoder import Head, check_head, last_norm
from ..heads.provenance import provenance
from .head_statistics import density_numbers, logit_numbers, mean_cosine, score_numbers, spearman
from .k_search import CRITERIA, search_k
from .measurement import Probe, as_pairs, run_probe, used_rows
from .verdict import judge, mismatched

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoding.query_encoder import QuerySide


class _Shown:
    """An audit, or several, as figures and notebooks show them."""

    def plot(self, path: str | None = None) -> matplotlib.figure.Figure:
        """Row norms, and with texts logits, scores and density, a row per model; saved if ``path`` is given."""
        from .plots import plot_audits

        return plot_audits(self if isinstance(self, tuple) else [self], path)

    def _repr_html_(self) -> str:
        from .plots import as_html

        return as_html(str(self), self.to_frame().drop(columns="verdict").set_index("model").T, self.plot())


@dataclass(frozen=True, eq=False)
class HeadAudit(_Shown):
    """Numbers and verdict of one head; made by :func:`audit`.

    Attributes:
        name: what the model is called in frames and figures.
        row_norms: L2 norms of the rows of W, (V,), padding rows included.
        used: rows whose id the tokenizer knows, bool (V,).
        numbers: every number of the frame's row; NaN where it needs texts and none were given.
        findings: the diseases found, of ``scale mismatch``, ``dense start``, ``sink`` and ``anisotropic``.
        verdict: the findings in words, and what to do.
        suggested_k: the constant to divide the head by, measured on the texts; 1 where its scale is fine, NaN without
            texts (weights alone do not tell) or where no k mends it.
        logits: samples of logits for the figure: ``content`` and ``special``; empty without texts.
    """

    name: str
    row_norms: np.ndarray = field(repr=False)
    used: np.ndarray = field(repr=False)
    numbers: dict[str, Any] = field(repr=False)
    findings: tuple[str, ...]
    verdict: str
    suggested_k: float
    logits: dict[str, np.ndarray] = field(repr=False)

    @property
    def mean_row_norm(self) -> float:
        """Mean L2 norm of the used rows of W."""
        return self.numbers["row_norm_mean"]

    def to_frame(self) -> pd.DataFrame:
        """One row: all numbers, then ``suggested_k`` and ``verdict``."""
        import pandas as pd

        row = {"model": self.name, **self.numbers, "suggested_k": self.suggested_k, "verdict": self.verdict}
        return pd.DataFrame([row])

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}"


class HeadAudits(_Shown, tuple[HeadAudit, ...]):
    """Audits of several models: a tuple with one frame and one figure."""

    def to_frame(self) -> pd.DataFrame:
        """A row per model, in the order given."""
        import pandas as pd

        return pd.concat([audit.to_frame() for audit in self], ignore_index=True)

    @property
    def verdict(self) -> str:
        """A line per model: its name and verdict."""
        return "\n".join(map(str, self))

    def __str__(self) -> str:
        return self.verdict


def audit(
    model: Any,
    texts: Iterable[str] | Iterable[tuple[str, str]] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    temperature: float = 1.0,
    max_length: int = 256,
    batch_size: int = 32,
    lowercase: bool = False,
    device: Any = None,
    sample: int = 256,
    seed: int = 0,
    pooling: str = MAX_POOLING,
    query_side: QuerySide | None = None,
    position_top_k: int | None = None,
    fold: str | None = None,
) -> HeadAudit | HeadAudits:
    """Measure a head; with texts also its logits, scores, density, cosine and frequency bias.

    Args:
        model: a hub name, a folder, or a loaded masked LM; or a list of those, or a dict of them by name.
        texts: 64 to 256 documents, or (query, document) pairs; see
            :func:`~pyterrier_rescale.analysis.measurement.as_pairs` for the queries of single texts.
        tokenizer: the tokenizer, its name or folder; default: the model's. A loaded model without a name needs one
            only with texts; without it every row counts as used.
        temperature: what the loss divides the scores by.
        max_length: tokens per text.
        batch_size: texts per batch.
        lowercase: lower-case texts first.
        device: torch device; default: CUDA where present, else CPU. The model is put back afterwards.
        sample: texts used at most, drawn at random from those given.
        seed: of that draw.
        pooling: ``"max"`` or ``"sum"`` over positions, of documents; default, as of the next three: what an encoder's
            folder was saved with, else max pooling of both sides.
        query_side: how queries are encoded (pooling, static weights, length); default: as documents.
        position_top_k: how many logits of each position take part, as of :class:`~pyterrier_rescale.Splade`.
        fold: which terms are one, likewise.

    Returns:
        The audit; for several models a tuple of audits with ``to_frame()`` (a row each) and ``plot()``.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a model without a usable head, texts that are no texts, or a
            temperature that is not above zero.
    """
    check_number("temperature", temperature)
    pairs = None if texts is None else as_pairs(texts, sample, seed)
    options = {
        "max_length": max_length, "batch_size": batch_size, "lowercase": lowercase, "device": device,
    }
    encoding = (pooling, query_side, position_top_k, fold)
    if isinstance(model, Mapping) or (isinstance(model, Sequence) and not isinstance(model, str)):
        if not model:
            raise ValueError("model must name at least one model, got none")
        named = model.items() if isinstance(model, Mapping) else [(None, one) for one in model]
        return HeadAudits(_audit(one, name, pairs, tokenizer, temperature, options, encoding) for name, one in named)
    return _audit(model, None, pairs, tokenizer, temperature, options, encoding)


def _audit(
    model: Any,
    name: str | None,
    pairs: tuple[list[str], list[str]] | None,
    tokenizer: Any,
    temperature: float,
    options: dict[str, Any],
    encoding: tuple[Any, ...],
) -> HeadAudit:
    saved = as_saved(model, *encoding)
    nameless = getattr(getattr(model, "config", None), "name_or_path", None) == "" and tokenizer is None
    loaded, loaded_tokenizer = load_backbone(model, tokenizer, need_tokenizer=pairs is not None or not nameless)
    name = name or loaded.config.name_or_path or type(loaded).__name__
    head = check_head(loaded)
    weight = head.weight.detach().float().cpu().numpy()
    row_norms = np.linalg.norm(weight, axis=1)
    used = used_rows(loaded_tokenizer, len(weight))
    numbers = _weight_numbers(loaded, head, row_norms, used)
    logits: dict[str, np.ndarray] = {}
    if pairs is None:
        suggested = math.nan
    else:
        probe = run_probe(loaded, loaded_tokenizer, *pairs, **options, **saved)
        numbers |= text_numbers(probe, temperature, row_norms)
        suggested = _suggested_by_scores(probe, numbers)
        rng = np.random.default_rng(0)
        columns = np.sort(rng.choice(len(weight), min(512, len(weight)), replace=False))
        logits = {
            kind: (hidden @ probe.weight[columns].T + probe.bias[columns]).ravel()
            for kind, hidden in (("content", probe.content_hidden), ("special", probe.special_hidden))
        }
    findings, verdict = judge(numbers, suggested)
    return HeadAudit(name, row_norms, used, numbers, findings, verdict, suggested, logits)


def _weight_numbers(model: PreTrainedModel, head: Head, row_norms: np.ndarray, used: np.ndarray) -> dict[str, Any]:
    """What the weights alone tell; row norms and bias over used rows."""
    norms = row_norms[used]
    bias = None if head.bias is None else head.bias.detach().float().cpu().numpy()[used]
    try:
        gain = last_norm(model)[0].weight.detach().float().cpu().numpy()
        gain_rms = float(np.sqrt(np.mean(np.square(gain))))
    except ValueError:  # a head without a norm before its decoder
        gain_rms = math.nan
    return {
        "family": type(model).__name__,
        "rows": len(row_norms),
        "used_rows": int(used.sum()),
        "tied": head.tied,
        "rescaled_by": float((provenance(model) or {}).get("k", math.nan)),
        "row_norm_mean": float(norms.mean()),
        "row_norm_median": float(np.median(norms)),
        "row_norm_p5": float(np.quantile(norms, 0.05)),
        "row_norm_p95": float(np.quantile(norms, 0.95)),
        "padding_row_norm_mean": float(row_norms[~used].mean()) if not used.all() else math.nan,
        "norm_gain": gain_rms,
        "row_norm_x_gain": float(norms.mean()) * gain_rms,
        "bias_mean": math.nan if bias is None else float(bias.mean()),
        "bias_std": math.nan if bias is None else float(bias.std()),
    }


def text_numbers(probe: Probe, temperature: float, row_norms: np.ndarray) -> dict[str, float]:
    """What the texts add: logits, scores, density, likeness and frequency bias, of the head as it is.

    Args:
        probe: the pass over queries and documents.
        temperature: divides the scores in the softmax.
        row_norms: norms of the rows of W, (V,).

    Returns:
        ``texts``, ``temperature``; ``logit_*`` at content and ``special_logit_*`` at special positions;
        ``special_share``, the share of firing terms whose maximum lies at a special position; the numbers of
        ``score_numbers`` and of ``density_numbers`` of the documents; ``active_share`` of the vocabulary;
        ``active_terms_query``; ``cosine_hidden`` of t at content positions of different documents, ``cosine_vectors``
        of the documents' x; ``frequency_weight``, ``frequency_bias``, ``frequency_norm``: Spearman of a term's mean
        weight, bias and row norm with its log frequency, over terms that occur in the documents.
    """
    queries, documents = probe.weights("queries"), probe.weights("documents")
    active = documents > 0
    density = density_numbers(documents)
    special = (active & (probe.weights_at("special") > probe.weights_at("content"))).sum()
    seen = probe.counts > 0
    frequency = np.log(probe.counts[seen])
    content, at_special = (
        logit_numbers(hidden, probe.weight[probe.used], probe.bias[probe.used])
        for hidden in (probe.content_hidden, probe.special_hidden)
    )
    return {
        "texts": len(documents),
        "temperature": temperature,
        **{f"logit_{name}": value for name, value in content.items()},
        **{f"special_logit_{name}": value for name, value in at_special.items()},
        "special_share": float(special / active.sum()) if active.any() else math.nan,
        **score_numbers(queries, documents, temperature),
        **density,
        "active_share": density["active_terms"] / probe.term_count,
        "active_terms_query": density_numbers(queries)["active_terms"],
        "cosine_hidden": mean_cosine(probe.content_hidden, probe.content_text),
        "cosine_vectors": mean_cosine(documents),
        "frequency_weight": spearman(documents.mean(axis=0)[seen], frequency),
        "frequency_bias": spearman(probe.bias[seen], frequency),
        "frequency_norm": spearman(row_norms[seen], frequency),
    }


def _suggested_by_scores(probe: Probe, numbers: dict[str, Any]) -> float:
    """The measured k, 1 where nothing is to be mended (or nothing fires, so that nothing can be measured).

    NaN where no k mends it: the bias is kept, and what it alone gives may be too much.
    """
    if numbers["random_saturation"] == 0 or not mismatched(numbers):
        return 1.0
    aim = CRITERIA["random_saturation"]
    try:
        return search_k(probe, None, criterion="random_saturation", aim=aim, temperature=numbers["temperature"])[0]
    except ValueError:
        return math.nan
