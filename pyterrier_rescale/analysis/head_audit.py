"""Measure an MLM head before a night of training: what is wrong with it, if anything, and what helps.

Four faults look alike from outside (a SPLADE that does not train) and are told apart in :mod:`.verdict`:

- scale mismatch: the softmax saturates, or the loss is several times that of a guess. Cure: k.
- dense start: an offset that MLM pretraining leaves undetermined makes most terms fire. Cure: a shift per term.
- sink: special positions ([CLS], [SEP]) win the max of most terms. Cure: the shift, as far as content rises above it.
- anisotropic: the vectors t of different texts point the same way. No k and no shift cures it: take another backbone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.checks import check_number
from ..heads.decoder import Head, check_head, evaluating, head_input, probe_ids
from ..heads.provenance import provenance
from .calibration import search_k
from .head_statistics import density_numbers, mean_cosine, score_numbers, spearman
from .measurement import Probe, as_pairs, load_encoder, run_probe, used_rows
from .verdict import judge, too_wide

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoding.description import Description


# What carries a verdict.
_CARRY = (
    "infonce", "chance_loss", "random_saturation", "score_spread", "active_terms", "active_share", "special_share",
    "cosine_hidden", "row_norm_mean", "norm_gain", "suggested_k",
)  # fmt: skip


class _Shown:
    """An audit, or several: in words, as a short table, as a figure."""

    def summary(self) -> pd.DataFrame:
        """The numbers that carry the verdict, a column per model; ``to_frame()`` has all."""
        numbers = self.to_frame().set_index("model").T
        return numbers.loc[[name for name in _CARRY if name in numbers.index]].astype(float)

    def __str__(self) -> str:
        told = self.verdict if isinstance(self, tuple) else repr(self)
        return f"{told}\n\n{self.summary().to_string(float_format='{:.4g}'.format)}"

    def plot(self) -> matplotlib.figure.Figure:
        """Row norms, and with texts logits, scores and density, a row per model."""
        from .plots import plot_audits

        return plot_audits(self if isinstance(self, tuple) else [self])


@dataclass(frozen=True, eq=False, repr=False)
class HeadAudit(_Shown):
    """Numbers and verdict of one head; made by :func:`audit`.

    Attributes:
        name: what the model is called in frames and figures.
        row_norms: L2 norms of the rows of W, (V,), padding rows included.
        numbers: every number of the frame's row; those that need texts only if there were any.
        findings: the faults found, of ``scale mismatch``, ``dense start``, ``dead``, ``sink`` and ``anisotropic``.
        verdict: the findings in words, and what to do.
        suggested_k: the constant to divide the head by, measured on the texts; 1 for none, NaN where none
            helps, and without texts.
    """

    name: str
    row_norms: np.ndarray
    numbers: dict[str, Any]
    findings: tuple[str, ...]
    verdict: str
    suggested_k: float

    @property
    def mean_row_norm(self) -> float:
        """Mean L2 norm of the used rows of W."""
        return self.numbers["row_norm_mean"]

    def to_frame(self) -> pd.DataFrame:
        """One row: all numbers, then ``suggested_k`` and ``verdict``."""
        import pandas as pd

        row = {"model": self.name, **self.numbers, "suggested_k": self.suggested_k, "verdict": self.verdict}
        return pd.DataFrame([row])

    def __repr__(self) -> str:
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
        return "\n".join(map(repr, self))


def audit(
    model: Any,
    texts: Iterable[str] | Iterable[tuple[str, str]] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    temperature: float = 1.0,
    max_length: int | None = None,
    encoding: Description | None = None,
    attention: str | None = None,
    device: Any = None,
) -> HeadAudit | HeadAudits:
    """Measure a head; with texts also its logits, scores, density, cosine and frequency bias.

    Args:
        model: a hub name, a folder, or a loaded masked LM; or a list of those, or a dict of them by name.
        texts: 64 to 512 documents, or (query, document) pairs; as those of :func:`~pyterrier_rescale.calibrate`.
        tokenizer: the tokenizer, its name or folder; default: the model's. Without one every row counts as used.
        temperature: what the loss divides the scores by.
        max_length: tokens per text; this and the next three as those of :func:`~pyterrier_rescale.calibrate`.
        encoding: how texts become vectors.
        attention: of a causal language model.
        device: torch device.

    Returns:
        The audit; for several models a tuple of audits with ``to_frame()`` (a row each) and ``plot()``.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a model without a usable head, texts that are no texts, or a
            temperature that is not above zero.
    """
    check_number("temperature", temperature)
    pairs = None if texts is None else as_pairs(texts)
    several = isinstance(model, (Mapping, Sequence)) and not isinstance(model, str)
    named = model if isinstance(model, Mapping) else dict(enumerate(model if several else [model]))
    audits = []
    for name, one in named.items():
        # without texts, a loaded model without a name needs no tokenizer
        needed = pairs is not None or getattr(getattr(one, "config", None), "name_or_path", None) != ""
        loaded, tokens, how = load_encoder(
            one, tokenizer, encoding, max_length, attention=attention, need_tokenizer=needed
        )
        shown = name if isinstance(model, Mapping) else loaded.config.name_or_path or type(loaded).__name__
        head = check_head(loaded)
        row_norms = torch.linalg.vector_norm(head.weight.detach().float(), dim=1).cpu().numpy()
        used = used_rows(tokens, len(row_norms))
        numbers, suggested = _weight_numbers(loaded, head, row_norms, used), math.nan
        if pairs is not None:
            probe = run_probe(loaded, tokens, *pairs, description=how, device=device)
            numbers |= _text_numbers(probe, temperature, row_norms)
            suggested = 1.0
            if too_wide(numbers):
                with suppress(ValueError):
                    suggested, _ = search_k(probe, None, temperature=temperature)
                suggested = suggested if suggested > 1 else math.nan  # the bias does it, which k does not divide
        findings, verdict = judge(numbers, suggested)
        audits.append(HeadAudit(shown, row_norms, numbers, findings, verdict, suggested))
    return HeadAudits(audits) if several else audits[0]


def _weight_numbers(model: PreTrainedModel, head: Head, row_norms: np.ndarray, used: np.ndarray) -> dict[str, Any]:
    """What the weights alone tell; row norms and bias over used rows."""
    with evaluating(model), torch.inference_mode():
        hidden = head_input(model, input_ids=probe_ids(model)).float()
    norms, gain = row_norms[used], float(hidden.square().mean().sqrt())  # what the norm before W gives, on a few tokens
    bias = np.full(1, math.nan) if head.bias is None else head.bias.detach().float().cpu().numpy()[used]
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
        "norm_gain": gain,
        "row_norm_x_gain": float(norms.mean()) * gain,
        "bias_mean": float(bias.mean()),
        "bias_std": float(bias.std()),
    }


def _text_numbers(probe: Probe, temperature: float, row_norms: np.ndarray) -> dict[str, float]:
    """What the texts add, of the head as it is: logits, scores, density, likeness and frequency bias.

    ``special_share``: of firing terms, those whose largest logit lies at a special position; ``cosine_hidden``: of t at
    content positions of different documents; ``frequency_*``: Spearman's, with the log frequency of terms that occur.
    """
    side = probe.documents
    queries, documents = probe.weights(probe.queries), probe.weights(side)
    active, density = documents > 0, density_numbers(documents)
    special = probe.folded(side.special + probe.bias, -np.inf) > probe.folded(side.content + probe.bias, -np.inf)
    seen = side.counts > 0
    frequency = np.log(side.counts[seen])
    numbers = {"texts": len(documents), "temperature": temperature}
    for name, hidden in (("logit", side.hidden["content"]), ("special_logit", side.hidden["special"])):
        values = probe.after(hidden @ probe.weight[probe.used].T + probe.bias[probe.used])
        values = values if len(hidden) else np.full(1, np.nan)
        numbers |= {f"{name}_mean": float(values.mean(dtype=np.float64)), f"{name}_std": float(values.std()),
                    f"{name}_p99": float(np.quantile(values, 0.99))}  # fmt: skip
    return numbers | {
        "special_share": float(special[active].mean()) if active.any() else math.nan,
        **score_numbers(queries, documents, temperature),
        **density,
        "active_share": density["active_terms"] / (probe.folding.size if probe.folding else documents.shape[1]),
        "active_terms_query": density_numbers(queries)["active_terms"],
        "cosine_hidden": mean_cosine(side.hidden["content"], side.owners),
        "cosine_vectors": mean_cosine(documents),
        "frequency_weight": spearman(documents.mean(axis=0)[seen], frequency),
        "frequency_bias": spearman(probe.bias[seen], frequency),
        "frequency_norm": spearman(row_norms[seen], frequency),
    }
