"""Choose k and a per-term offset from a few unlabelled texts, in one forward pass and without a sweep.

The offset. The softmax of MLM pretraining ignores an offset common to all logits and relu does not, so a term's level
is undetermined until it is measured: with q_v the (1 - rate) quantile over texts of the pooled logit
z_v = max_i w_v . t_i + b_v, the shift b_v <- b_v - q_v makes term v fire in a share ``rate`` of the texts. Then W and
the shifted bias are both divided by k, so that k moves the weights and never the set of terms that fire:

    x_v = log(1 + relu((max_i w_v . t_i + b_v - q_v) / k)).

Centring. The softmax ignores an offset common to all logits of ONE position, too: some texts fire on thousands of terms
and others on none. That offset is (mean_v w_v) . t_i. Subtracting the mean row from every row of W removes it and
leaves every MLM probability as it was (TransformerLens: ``center_unembed``). With an offset, W is centred first.

The scale. k is the one whose measured criterion comes closest, in ratio, to a target: a ``random_saturation`` of .3,
where the strongest of 32 random documents takes a third of a query's softmax, neither all of it (then no gradient
reaches the others) nor its even share (then there is little ranking to improve); for losses that distil, the teacher's
``random_margin``. On held-out title -> body pairs of one small backbone with calibrated offsets, 200 steps, starts at
.22 ended best, .48 close, .66 and .09 behind, .77 far behind.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice, check_number, check_share
from ..heads.checkpoint import remember_source
from ..heads.decoder import find_head, mean_row_norm
from ..heads.provenance import record, refuse_rescaled
from ..heads.rescaling import rescale
from ..heads.ties import ensure_bias, untie
from .head_statistics import density_numbers, score_numbers
from .measurement import Probe, as_pairs, load_encoder, run_probe, used_rows

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoding.description import Description

#: The random saturation that is aimed at.
SATURATION = 0.3
_LIMIT = 2.0**24  # the largest k that is tried


@dataclass(frozen=True, eq=False)
class Calibration:
    """The measured k and offset of one head; made by :func:`calibrate`.

    Attributes:
        k: the rescale constant.
        bias_shift: added to the bias before the division, (V,) float32; ``None`` without offset: the bias is kept.
        mean_row: subtracted from every row of W, (H,) float32; ``None`` where W is not centred.
        table: a row per k tried; ``chosen`` marks the one taken, :mod:`.head_statistics` explains the columns.
        settings: what it was measured with.
    """

    k: float
    bias_shift: np.ndarray | None = field(repr=False)
    mean_row: np.ndarray | None = field(repr=False)
    table: pd.DataFrame
    settings: dict[str, Any] = field(repr=False)

    def apply(self, model: Any, *, inplace: bool = False) -> PreTrainedModel:
        """Centre W, shift the bias, divide the head, and record it all in the config; returns the calibrated model.

        ``model`` is the backbone that was measured: a hub name, a folder, or a loaded masked LM, of which a copy is
        changed unless ``inplace``. The ``attention`` that was given stays. An encoder's folder or hub name is kept as
        :func:`~pyterrier_rescale.rescale` says.

        Raises:
            ValueError: if the model has been rescaled already, or has another head than the one measured.
        """
        import torch

        attention = self.settings.get("attention")
        if inplace and attention and not isinstance(model, (str, os.PathLike)):
            model.config.is_causal = attention == "causal"
        loaded, _, _ = load_encoder(model, None, None, None, attention=attention, need_tokenizer=False)
        refuse_rescaled(loaded)
        shift, measured = self.bias_shift, self.settings["mean_row_norm_before"]
        rows, norm = len(find_head(loaded).weight), mean_row_norm(find_head(loaded).weight)
        if (shift is not None and len(shift) != rows) or not math.isclose(norm, measured, rel_tol=1e-2):
            raise ValueError(
                f"model's head has {rows} rows of mean norm {norm:.4g}, not those that were measured (mean norm "
                f"{measured:.4g}): apply the calibration to the model it was measured on"
            )
        if isinstance(model, (str, os.PathLike)):
            remember_source(loaded, model)
        elif loaded is model and not inplace:
            loaded = copy.deepcopy(loaded)
        untie(loaded)
        with torch.no_grad():
            if self.mean_row is not None:
                weight = find_head(loaded).weight
                weight.copy_(weight.float() - torch.from_numpy(self.mean_row).to(weight.device))
            if shift is not None:
                bias = ensure_bias(loaded)
                bias.copy_(bias.float() + torch.from_numpy(shift).to(bias.device))
        rescale(loaded, self.k, bias=shift is not None, inplace=True)
        record(loaded, method="auto" if shift is None else "calibrated", **self.settings)
        return loaded

    def plot(self) -> matplotlib.figure.Figure:
        """The criterion, the loss and active terms against k."""
        from .plots import plot_calibration

        return plot_calibration(self)


def calibrate(
    model: Any,
    texts: Iterable[str] | Iterable[tuple[str, str]],
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    offset: bool | str = True,
    rate: float = 0.03,
    k: float | None = None,
    target: float = SATURATION,
    margin: float | None = None,
    temperature: float = 1.0,
    max_length: int | None = None,
    encoding: Description | None = None,
    attention: str | None = None,
    device: Any = None,
) -> Calibration:
    """Measure k, and with ``offset`` a shift per term, on a few unlabelled texts.

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        texts: 64 to 512 documents, or (query, document) pairs; of a document alone the first words are the query.
        tokenizer: the tokenizer, its name or folder; default: the model's.
        offset: also shift the bias: ``True``, each term by its own level; ``"global"``, all terms by the same amount;
            ``False``, W alone is divided and the bias kept (the paper's way).
        rate: share of documents in which a term fires (``"global"``: on average over terms), one text at least. Of
            folded terms, or where few logits of a position count, it is the largest share.
        k: take this k, and measure the offset alone.
        target: aim at this mean largest softmax probability over 32 random documents per query.
        margin: aim instead at this root mean square of s(q, d+) - s(q, d) over random documents d, for the median
            query: the teacher's, for losses that distil.
        temperature: the loss's; InfoNCE divides the scores by it.
        max_length: tokens per text; default: what the folder of an encoder was saved with, else the tokenizer's.
        encoding: a :class:`~pyterrier_rescale.encoding.description.Description`; default: as the folder was saved.
            Give ``Splade`` the same options.
        attention: of a causal language model ``"causal"`` or ``"bidirectional"``; default: as its configuration says.
        device: torch device of the pass; default: CUDA, else Apple's MPS, else the CPU.

    Returns:
        k (1 at least, unless a smaller one is given), the shift, and the table of what each k would give.

    Raises:
        ValueError: for settings out of range, too few texts for ``rate``, a model rescaled already, or a head in which
            no term fires.
        TypeError: for texts that are no texts.
    """
    import pandas as pd

    check_share("rate", rate, ends=False)
    check_share("target", target, ends=False)
    check_choice("offset", offset, (True, False, "global"))
    for name, value in (("temperature", temperature), ("margin", margin), ("k", k)):
        if value is not None:
            check_number(name, value)
    criterion, aim = ("random_saturation", target) if margin is None else ("random_margin", margin)
    queries, documents = as_pairs(texts)
    if offset and rate * len(documents) < 1:
        raise ValueError(
            f"rate={rate:g} of {len(documents)} texts is less than one text: give at least {math.ceil(1 / rate)} texts "
            "or a larger rate"
        )
    loaded, tokenizer, how = load_encoder(model, tokenizer, encoding, max_length, attention=attention)
    refuse_rescaled(loaded)
    mean_row = mean_known_row(loaded, tokenizer) if offset else None
    probe = run_probe(loaded, tokenizer, queries, documents, mean_row=mean_row, device=device, description=how)
    shift = -term_levels(probe, rate, common=offset == "global") if offset else None
    if shift is not None:  # special tokens that an encoder keeps from firing (special_terms=False) stay so
        shift[np.isin(np.arange(len(shift)), tokenizer.all_special_ids) & (probe.bias < -1e3)] = 0
    if k is None:
        k, table = search_k(probe, shift, criterion=criterion, aim=aim, temperature=temperature)
    else:
        table = pd.DataFrame([evaluate_k(probe, shift, float(k), temperature)]).assign(chosen=True)
    settings = {
        "mean_row_norm_before": mean_row_norm(find_head(loaded).weight), "criterion": criterion, "aim": float(aim),
        "measured": float(table.loc[table["chosen"], criterion].iloc[0]), "temperature": temperature,
        "texts": len(documents), **how.changed(), **({"attention": attention} if attention else {}),
        **({"offset": "global" if offset == "global" else "term", "rate": rate} if offset else {}),
    }  # fmt: skip
    return Calibration(float(k), shift, mean_row, table, settings)


def mean_known_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Mean of the rows of W whose id the tokenizer knows, (H,) float32."""
    weight = find_head(model).weight.detach().float().cpu().numpy()
    return weight[used_rows(tokenizer, len(weight))].mean(axis=0, dtype=np.float64).astype(np.float32)


def term_levels(probe: Probe, rate: float, *, common: bool = False) -> np.ndarray:
    """q_v: the (1 - rate) quantile over documents of the pooled logit of each term, (V,) float32.

    With ``common`` it is over documents and terms together; of folded terms, of the largest variant. Rows that the
    tokenizer does not know get at least their largest value, so that they fire in no document of the sample.
    """
    logits, folding = probe.documents.pooled + probe.bias, probe.folding
    if common:
        counted = probe.folded(logits, -np.inf)[:, probe.used & (True if folding is None else folding.represents)]
        levels = np.full(logits.shape[1], np.quantile(counted, 1 - rate))
    else:
        levels = np.quantile(logits, 1 - rate, axis=0)
        if folding is not None:  # variants at one level, then the level of the largest of them
            above = probe.folded((logits - levels).astype(np.float32), -np.inf)[:, folding.represents]
            own = np.zeros_like(levels)
            own[folding.represents] = np.quantile(above, 1 - rate, axis=0)
            levels += own[folding.representatives]
    levels[~probe.used] = np.maximum(levels if common else -np.inf, logits.max(axis=0))[~probe.used]
    return levels.astype(np.float32)


def evaluate_k(probe: Probe, shift: np.ndarray | None, k: float, temperature: float) -> dict[str, float]:
    """What a head rescaled by k (and shifted, with its bias divided, where ``shift`` is given) would start with."""
    queries, documents = (probe.weights(side, k, shift) for side in (probe.queries, probe.documents))
    asked = {"active_terms_query": density_numbers(queries)["active_terms"]}
    return {"k": k, **score_numbers(queries, documents, temperature), **density_numbers(documents), **asked}


def search_k(
    probe: Probe,
    shift: np.ndarray | None,
    *,
    criterion: str = "random_saturation",
    aim: float = SATURATION,
    temperature: float = 1.0,
) -> tuple[float, pd.DataFrame]:
    """The k >= 1 whose ``criterion`` (a column) comes closest in ratio to ``aim``, and the table of all k tried.

    Powers of two are tried until the aim is passed; then the bracket is halved twice (to quarter powers of two).
    ``ValueError`` if no k gives a value above zero, as when no term fires, or none goes down to the aim.
    """
    import pandas as pd

    tried: dict[float, dict[str, float]] = {}

    def value(k: float) -> float:
        if k not in tried:
            tried[k] = evaluate_k(probe, shift, k, temperature)
        return tried[k][criterion]

    # none below 1: it would enlarge the head, and with it what odd texts do to a batch
    if not any([value(2.0**power) > 0 for power in range(7)]):
        raise ValueError(f"no k gives a {criterion} above 0: no query shares a firing term with another document")
    while value(max(tried)) > aim and max(tried) < _LIMIT:
        value(max(tried) * 2)
    if value(max(tried)) > aim:
        raise ValueError(
            f"no k brings {criterion} down to {aim:g}: at k={max(tried):.2g} it is {value(max(tried)):.3g}. Give more "
            "texts or another target; if the bias gives most of it, shift the bias (offset=True, rescale='calibrated')"
        )
    for _ in range(2 if value(1.0) >= aim else 0):  # else the head's own scale is small enough
        above = max(k for k in tried if value(k) >= aim)
        below = min((k for k in tried if k > above), default=above)
        value(math.sqrt(above * below))
    best = min(tried, key=lambda k: abs(math.log(max(value(k), 1e-300) / aim)))
    table = pd.DataFrame([tried[k] for k in sorted(tried)])
    return best, table.assign(chosen=table["k"] == best)
