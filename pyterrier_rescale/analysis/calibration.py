"""Choose k and a per-term offset from a few unlabelled texts, in one forward pass and without a sweep.

Scale and offset are two knobs. The softmax of MLM pretraining ignores an offset common to all logits and relu does
not, so a term's level is undetermined until it is measured: with q_v the (1 - rate) quantile over texts of the pooled
logit z_v = max_i w_v . t_i + b_v, the shift b_v <- b_v - q_v makes term v fire in a share ``rate`` of the texts. Then W
and the shifted bias are both divided by k, so that k moves the weights and never the set of terms that fire:

    x_v = log(1 + relu((max_i w_v . t_i + b_v - q_v) / k)).

(Dividing W first and shifting after, by the quantile of what is then the logit, gives the same x.)

The softmax ignores an offset common to all logits of ONE position, too, and relu does not see past that either: texts
differ in it, so some fire on thousands of terms and others on none. It is (mean_v w_v) . t_i, and subtracting the mean
row from every row of W takes it out, leaving every MLM probability as it was (what TransformerLens calls
``center_unembed``). With an offset, calibration centres W first.

k is read off measured scores: it cannot be derived from norms, since log1p answers to it non-linearly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice, check_number, check_share
from .._utils.defaults import MAX_POOLING
from ..encoding.saved_settings import as_saved
from ..heads.checkpoint import load_backbone
from ..heads.decoder import find_head, mean_row_norm
from ..heads.provenance import record, refuse_rescaled
from ..heads.rescaling import PLACEMENTS, rescale
from ..heads.ties import ensure_bias, untie
from .k_search import check_criterion, check_ks, search_k
from .measurement import Probe, as_pairs, run_probe, used_rows

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoding.query_encoder import QuerySide


@dataclass(frozen=True, eq=False)
class Calibration:
    """The measured k and offset of one head; made by :func:`calibrate`.

    Attributes:
        k: the rescale constant.
        bias_shift: added to the bias before the division, (V,) float32; ``None`` without offset (then the bias is
            kept, and only W is divided).
        mean_row: subtracted from every row of W, (H,) float32; ``None`` where W is not centred.
        table: a row per k tried, ``chosen`` marking the one taken; columns as in
            :func:`~pyterrier_rescale.analysis.head_statistics.score_numbers` and ``density_numbers`` (of the
            documents), and ``active_terms_query``.
        settings: what it was measured with.
    """

    k: float
    bias_shift: np.ndarray | None
    mean_row: np.ndarray | None = field(repr=False)
    table: pd.DataFrame
    settings: dict[str, Any] = field(repr=False)

    @property
    def method(self) -> str:
        """``"calibrated"`` with an offset, ``"auto"`` without."""
        return "auto" if self.bias_shift is None else "calibrated"

    def apply(self, model: Any, *, inplace: bool = False, placement: str = "decoder") -> PreTrainedModel:
        """Centre W, shift the bias, divide the head, and record it all in the config.

        Args:
            model: the backbone that was measured: a hub name, a folder, or a loaded masked LM.
            inplace: change ``model`` itself instead of a copy.
            placement: as in :func:`~pyterrier_rescale.rescale`. A centred W is never tied: ``"norm"`` unties it, and
                ``"tied"`` needs ``calibrate(centre=False)``.

        Returns:
            The calibrated model; its config holds k, method and the settings.

        Raises:
            ValueError: if the model has been rescaled already, has another head than the one measured, has no
                decoder bias to shift, or is to be centred and stay tied.
        """
        import torch

        check_choice("placement", placement, PLACEMENTS)
        if placement == "tied" and self.mean_row is not None:
            raise ValueError(
                "placement='tied' divides W and embeddings together, but this calibration centres W alone: use "
                "placement='decoder', or calibrate(centre=False)"
            )
        if isinstance(model, str) or hasattr(model, "__fspath__"):
            model, _ = load_backbone(model, need_tokenizer=False)
            inplace = True
        refuse_rescaled(model)
        self._check_same(model)
        model = model if inplace else copy.deepcopy(model)
        if self.bias_shift is not None:
            shifted = ensure_bias(model).detach().float().cpu().numpy() + self.bias_shift
        if self.mean_row is not None:
            untie(model)
            weight = find_head(model).weight
            with torch.no_grad():  # in fp32 whatever the dtype
                weight.copy_(weight.float() - torch.from_numpy(self.mean_row).to(weight.device))
        rescale(model, self.k, bias=self.bias_shift is not None, placement=placement, inplace=True)
        if self.bias_shift is not None:
            with torch.no_grad():
                ensure_bias(model).copy_(torch.from_numpy(shifted / np.float32(self.k)))
        record(model, method=self.method, **self.settings)
        return model

    def plot(self, path: str | None = None) -> matplotlib.figure.Figure:
        """Score spread, saturation and density against k; saved if ``path`` is given."""
        from .plots import plot_calibration

        return plot_calibration(self, path)

    def _repr_html_(self) -> str:
        from .plots import as_html

        shift = "" if self.bias_shift is None else " and a shift of each term's bias"
        return as_html(f"{self.method}: k = {self.k:.4g}{shift}", self.table.set_index("k"), self.plot())

    def _check_same(self, model: PreTrainedModel) -> None:
        head = find_head(model)
        if self.bias_shift is not None and len(self.bias_shift) != len(head.weight):
            raise ValueError(
                f"model has {len(head.weight)} vocabulary rows, but {len(self.bias_shift)} were measured: apply the "
                "calibration to the model it was measured on"
            )
        norm, measured = mean_row_norm(head.weight), self.settings["mean_row_norm_before"]
        if not math.isclose(norm, measured, rel_tol=1e-2):
            raise ValueError(
                f"model's mean row norm is {norm:.4g}, but {measured:.4g} was measured: apply the calibration to the "
                "model it was measured on"
            )


def calibrate(
    model: Any,
    texts: Iterable[str] | Iterable[tuple[str, str]],
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    offset: bool | str = True,
    centre: bool | None = None,
    rate: float = 0.03,
    positions: str = "attended",
    criterion: str = "random_saturation",
    target: float | None = None,
    temperature: float = 1.0,
    ks: Sequence[float] | None = None,
    least_k: float = 1.0,
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
) -> Calibration:
    """Measure k, and with ``offset`` a shift per term, on a few unlabelled texts.

    k is the one whose ``criterion`` comes closest, in ratio, to ``target``. With ``offset``, term v fires in a share
    ``rate`` of the documents (rows that the tokenizer does not know fire in none of them).

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        texts: 64 to 512 documents, or (query, document) pairs; a document's first words stand for a query where none
            is given (see :func:`~pyterrier_rescale.analysis.measurement.as_pairs`).
        tokenizer: the tokenizer, its name or folder; default: the model's.
        offset: also shift the bias: ``True`` or ``"term"``, each term by its own level; ``"global"``, all terms by
            the same amount; ``False``, W alone is divided and the bias kept (the paper's way).
        centre: subtract the mean row (over tokens that the tokenizer knows) from every row of W, which no MLM
            probability shows; default: where there is an offset.
        rate: share of documents in which a term fires (``"global"``: on average over terms); at least one document
            of the sample.
        positions: where the level of a term is measured: ``"attended"``, all positions the encoder's max sees, so that
            ``rate`` holds in its vectors; or ``"content"``, leaving special ones out: terms that a special position
            raises everywhere then keep firing everywhere.
        criterion: ``"random_saturation"``, the mean largest softmax probability over 32 random documents per query;
            ``"random_std"``, the standard deviation of the scores of random pairs, in units of the temperature; or
            ``"random_margin"``, the root mean square of s(q, d+) - s(q, d) over random documents d, for the median
            query (for losses that distil).
        target: the value of the criterion that is aimed at; default .3, 5, and none for ``"random_margin"``: give
            the root mean square of the teacher's margins.
        temperature: the loss's; InfoNCE divides the scores by it.
        ks: the constants to try; default: powers of two, on to where the aim lies, then narrowed to quarter powers.
        least_k: none below it is taken, unless ``ks`` names it. A k below 1 enlarges the head, and with it what odd
            texts and tokens do to a batch: where vectors are sparse, few random documents share a term with a query,
            and no scale makes up for that.
        max_length: tokens per text.
        batch_size: texts per batch.
        lowercase: lower-case texts first.
        device: torch device of the pass; default: CUDA where present, else CPU. The model is put back afterwards.
        sample: texts used at most, drawn at random from those given.
        seed: of that draw.
        pooling: ``"max"`` or ``"sum"`` over positions, of documents. A term fires alike in both; the weights differ.
            Default, as of the next three: what the folder of an encoder was saved with, else max pooling of both sides.
        query_side: how queries are encoded (pooling, static weights, length); default: as documents.
        position_top_k: how many logits of each position take part, as of :class:`~pyterrier_rescale.Splade`; then
            ``rate`` is the largest share of documents in which a term fires.
        fold: which terms are one, likewise: variants are brought to one level, then shifted together.

    Returns:
        k, the shift, and the table of what each k would give.

    Raises:
        ValueError: for settings out of range, too few texts for ``rate``, a model rescaled already, a head without
            bias where ``offset`` is asked for, or a head in which no term fires.
        TypeError: for texts that are no texts.
    """
    check_share("rate", rate, ends=False)
    encoding = as_saved(model, pooling, query_side, position_top_k, fold)
    ks = check_ks(ks)
    check_choice("positions", positions, ("attended", "content"))
    check_choice("offset", offset, (True, False, "term", "global"))
    check_choice("centre", centre, (True, False, None))
    centre = bool(offset) if centre is None else bool(centre)
    for name, value in (("temperature", temperature), ("target", target), ("least_k", least_k)):
        if value is not None:
            check_number(name, value)
    criterion, target = check_criterion(criterion, target)
    queries, documents = as_pairs(texts, sample, seed)
    if offset and rate * len(documents) < 1:
        raise ValueError(
            f"rate={rate:g} of {len(documents)} texts is less than one text: give at least {math.ceil(1 / rate)} texts "
            "or a larger rate"
        )
    model, loaded_tokenizer = load_backbone(model, tokenizer)
    refuse_rescaled(model)
    if offset and find_head(model).bias is None:
        ensure_bias(copy.deepcopy(model))  # raises where the family cannot hold one
    mean_row = mean_known_row(model, loaded_tokenizer) if centre else None
    probe = run_probe(
        model, loaded_tokenizer, queries, documents, mean_row=mean_row,
        max_length=max_length, batch_size=batch_size, lowercase=lowercase, device=device, **encoding,
    )  # fmt: skip
    shift = -term_levels(probe, rate, positions, common=offset == "global") if offset else None
    aim = target * temperature if criterion == "random_std" else target
    k, table = search_k(probe, shift, criterion=criterion, aim=aim, temperature=temperature, ks=ks, least=least_k)
    chosen = table.loc[table["chosen"]].iloc[0]
    settings = {
        "mean_row_norm_before": mean_row_norm(find_head(model).weight),
        "criterion": criterion,
        "aim": float(aim),
        "measured": float(chosen[criterion]),
        "temperature": temperature,
        "texts": len(documents),
        "max_length": max_length,
        "lowercase": lowercase,
        "centred": centre,
        **_encoding(encoding["pooling"], encoding["query_side"]),
        **encoding["options"].given(),
    }
    if offset:
        settings |= {"offset": "global" if offset == "global" else "term", "rate": rate, "positions": positions}
    return Calibration(k, shift, mean_row, table, settings)


def _encoding(pooling: str, query_side: QuerySide | None) -> dict[str, str]:
    """What differs from max pooling of both sides, as settings."""
    settings = {} if pooling == "max" else {"pooling": pooling}
    if query_side is not None and not query_side.alike:
        settings["queries"] = "static" if query_side.weights is not None else str(query_side.pooling)
    return settings


def mean_known_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Mean of the rows of W whose id the tokenizer knows, (H,) float32."""
    weight = find_head(model).weight.detach().float().cpu().numpy()
    return weight[used_rows(tokenizer, len(weight))].mean(axis=0, dtype=np.float64).astype(np.float32)


def term_levels(probe: Probe, rate: float, positions: str, common: bool = False) -> np.ndarray:
    """q_v: the (1 - rate) quantile over documents of the pooled logit of each term, (V,) float32.

    With ``common`` the quantile is over documents and terms together, one for all. Of folded terms it is that of the
    largest variant. Rows that the tokenizer does not
    know get at least their largest value, so that they fire in no document of the sample.
    """
    pooled = probe.documents if positions == "attended" else probe.content
    pooled = pooled[np.isfinite(pooled).all(axis=1)]  # a text of special tokens alone has no content
    folding = probe.folding
    if common:
        logits = probe.folded(pooled + probe.bias, -np.inf)
        logits = logits[:, probe.used & (True if folding is None else folding.represents)]
        levels = np.full(pooled.shape[1], np.quantile(logits, 1 - rate))
        largest = pooled[:, ~probe.used].max(axis=0, initial=-np.inf) + probe.bias[~probe.used]
        levels[~probe.used] = np.maximum(levels[~probe.used], largest)
        return levels.astype(np.float32)
    levels = np.quantile(pooled, 1 - rate, axis=0)
    if folding is not None:  # variants at one level, then the level of the largest of them
        above = probe.folded((pooled - levels).astype(np.float32), -np.inf)[:, folding.represents]
        common_level = np.zeros_like(levels)
        common_level[folding.represents] = np.quantile(above, 1 - rate, axis=0)
        levels += common_level[folding.representatives]
    levels[~probe.used] = pooled[:, ~probe.used].max(axis=0)
    return (levels + probe.bias).astype(np.float32)
