"""What the offset is: the arms A to J, each a start that fires on as many terms as A.

A start gives term v the weight log(1 + relu(((m_v + b_v + shift_v) gain_v - constant) / k)), m_v the pooled w_v . t_i.
The constant makes the number of active terms per document that of A, k the random saturation that calibrate aims at.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from pyterrier_rescale.analysis.calibration import mean_known_row, search_k, term_levels
from pyterrier_rescale.analysis.measurement import Probe, run_probe
from pyterrier_rescale.encoding.description import Description
from pyterrier_rescale.encoding.lexical import count_encoder, inverse_frequencies
from pyterrier_rescale.encoding.text_encoder import TextEncoder
from pyterrier_rescale.heads.decoder import find_head
from pyterrier_rescale.heads.provenance import record
from pyterrier_rescale.heads.ties import ensure_bias, untie

RATE = 0.03
TOP_K = 12
AIM = 0.3
NEVER = -1e6
#: Sources of pooled logits: W centred, as it is, and as it is with the largest logits of each position alone.
SOURCES = ("centred", "plain", "top")


@dataclass(frozen=True, eq=False)
class Arm:
    """One start; see the module's formula. Where ``divided`` is false the bias is not divided by k."""

    name: str
    source: str
    shift: np.ndarray
    gain: np.ndarray
    query_gain: np.ndarray | None = None
    constant: float = 0.0
    k: float = 1.0
    divided: bool = True

    def weights(self, pooled: np.ndarray, bias: np.ndarray, query: bool = False) -> np.ndarray:
        """Term weights (N, V) from pooled linear parts (N, V) and b (V,)."""
        level = (bias + self.shift) * self.gain - self.constant
        logits = (pooled * self.gain + level) / self.k if self.divided else pooled * (self.gain / self.k) + level
        weights = np.log1p(np.maximum(logits, 0, dtype=np.float32))
        return weights * self.query_gain if query and self.query_gain is not None else weights


def token_frequencies(tokenizer: Any, texts: list[str], max_length: int, vocab_size: int) -> tuple[Any, Any]:
    """Occurrences and document frequencies of every token over texts, (V,) each; no forward pass."""
    counts = count_encoder(tokenizer, max_length).encode(texts)
    total, documents = np.zeros(vocab_size), np.zeros(vocab_size)
    total[: counts.shape[1]] = np.asarray(counts.sum(axis=0)).ravel()
    documents[: counts.shape[1]] = np.bincount(counts.indices, minlength=counts.shape[1])
    return total, documents


class Sources:
    """Pooled linear parts of logits, w_v . t_i, from each source."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int, device: str = "cpu") -> None:
        self.model, self.tokenizer, self.max_length, self.device = model, tokenizer, max_length, device
        self.mean_row = mean_known_row(model, tokenizer)
        self.encoder = TextEncoder(model, tokenizer, Description(max_length=max_length), device=device)
        bias = find_head(model).bias
        self.bias = bias.detach().float().cpu().numpy() if bias is not None else np.zeros(len(find_head(model).weight))

    def probe(self, source: str, queries: list[str], documents: list[str]) -> Probe:
        """A probe of as many queries as documents."""
        mean_row = self.mean_row if source == "centred" else None
        probe = run_probe(
            self.model, self.tokenizer, queries, documents,
            description=self.encoder.description, mean_row=mean_row, device=self.device,
        )  # fmt: skip
        if source != "top":
            return probe
        pooled = [self.pooled(texts)["top"] for texts in (queries, documents)]
        sides = [
            dataclasses.replace(side, content=own, special=np.full_like(own, -np.inf))
            for side, own in zip((probe.queries, probe.documents), pooled, strict=True)
        ]
        return dataclasses.replace(probe, queries=sides[0], documents=sides[1])

    def pooled(self, texts: list[str]) -> dict[str, np.ndarray]:
        """max_i w_v . t_i over attended positions, (N, V) per source; -inf where nothing is left.

        One product serves all: centring W takes the same number from all logits of a position.
        """
        head = self.encoder.head
        mean_row = torch.from_numpy(self.mean_row).float().to(head.weight.device)
        out = {source: torch.full((len(texts), len(head.weight)), -torch.inf) for source in SOURCES}
        with torch.inference_mode():
            for batch in self.encoder.head_batches(texts):
                for row, number in enumerate(batch.texts):
                    hidden = batch.hidden[row][batch.mask[row]]
                    linear = hidden @ head.weight.T
                    logits = linear if head.bias is None else linear + head.bias
                    best = logits.topk(min(TOP_K, logits.shape[1]), dim=1).indices
                    top = linear.gather(1, best)
                    out["top"][number].scatter_reduce_(0, best.ravel().cpu(), top.ravel().cpu(), "amax")
                    out["plain"][number] = linear.amax(dim=0)
                    out["centred"][number] = linear.sub_((hidden @ mean_row)[:, None]).amax(dim=0)
        return {source: values.numpy() for source, values in out.items()}


def make_arms(
    probes: dict[str, Probe],
    counts: np.ndarray,
    frequencies: np.ndarray,
    documents: int,
    seed: int = 0,
    only: str | None = None,
) -> tuple[dict[str, Arm], dict[str, float]]:
    """All arms, matched, and what is known of B's fit.

    Args:
        probes: of the sample, by source: "centred", and that of each arm that is made.
        counts: occurrences of each token in the corpus, (V,).
        frequencies: its documents, (V,).
        documents: N.
        seed: of D's shuffling.
        only: the name of one arm of A to I, which saves the others' time.
    """
    probe = probes["centred"]
    used, ones = probe.used, np.ones(len(probe.bias), dtype=np.float32)
    levels = term_levels(probe, RATE).astype(np.float64)
    log_p = np.log((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    seen = used & (counts > 0)
    slope, intercept = np.polyfit(log_p[seen], levels[seen], 1)
    fit = intercept + slope * log_p
    content = np.where(np.isfinite(probe.documents.content), probe.documents.content, np.nan)
    shuffled = levels.copy()
    ranks = np.argsort(np.argsort(counts[used], kind="stable"), kind="stable") * 10 // max(1, used.sum())
    generator = np.random.default_rng(seed)
    for decile in range(10):
        places = np.flatnonzero(used)[ranks == decile]
        shuffled[places] = levels[generator.permutation(places)]
    deviation = np.nanstd(content, axis=0)
    gain = np.where(used & (deviation > 0), np.mean(deviation[used]) / np.maximum(deviation, 1e-6), 1.0)
    idf = inverse_frequencies(frequencies, documents)
    shifts = {
        "A": -levels, "B": -fit, "C": fit - levels, "D": -shuffled, "E": -np.log(frequencies + 0.5),
        "F": -(np.nanmean(content, axis=0) + probe.bias), "G": -probe.bias, "G0": 0 * fit,
    }  # fmt: skip
    arms = [Arm(name, "centred", shift, ones) for name, shift in shifts.items()]
    arms += [
        Arm("H", "top", 0 * fit, ones), Arm("I", "centred", -levels, gain),
        Arm("J", "plain", 0 * fit, ones, idf, k=16.0, divided=False), Arm("Jm", "plain", 0 * fit, ones, idf),
        Arm("raw", "plain", 0 * fit, ones, divided=False), Arm("k16", "plain", 0 * fit, ones, k=16.0, divided=False),
    ]  # fmt: skip
    arms = [_without_unused(arm, used) for arm in arms]
    target = float((_logits(arms[0], probe)[:, used] > 0).sum(axis=1).mean())
    matched = {}
    for arm in arms:
        if only in (None, arm.name):
            if arm.name == "A":  # no constant: it is what ``calibrate`` makes
                arm = _scaled(arm, probe)
            elif arm.divided:
                arm = _matched(arm, probes[arm.source], target)
            matched[arm.name] = arm
    residual = levels[seen] - fit[seen]
    facts = {
        "R2 of B": 1 - float(residual.var() / levels[seen].var()), "slope of B": float(slope),
        "Spearman of levels and log p": float(spearmanr(levels[seen], log_p[seen]).statistic),
        "Spearman of bias and log p": float(spearmanr(probe.bias[seen], log_p[seen]).statistic),
        "active terms aimed at": target, "terms seen": int(seen.sum()),
    }  # fmt: skip
    return matched, facts


def _without_unused(arm: Arm, used: np.ndarray) -> Arm:
    """Rows that the tokenizer does not know never fire."""
    shift = np.where(used, arm.shift, NEVER).astype(np.float32)
    return dataclasses.replace(arm, shift=shift, gain=arm.gain.astype(np.float32))


def _logits(arm: Arm, probe: Probe) -> np.ndarray:
    return (probe.documents.pooled + probe.bias + arm.shift) * arm.gain


def _matched(arm: Arm, probe: Probe, target: float) -> Arm:
    """The arm with the constant at which ``target`` terms fire per document, and its k.

    Where fewer fire (position top-k), the constant is the smallest logit, so that all that are left do.
    """
    logits = _logits(arm, probe)[:, probe.used].ravel()
    logits = logits[np.isfinite(logits)]
    number = min(len(logits) - 1, round(target * len(probe.documents.content)))
    return _scaled(dataclasses.replace(arm, constant=float(-np.partition(-logits, number)[number])), probe)


def _scaled(arm: Arm, probe: Probe) -> Arm:
    """The arm with the k at which random documents saturate a query's softmax as ``calibrate`` aims at."""
    level = (probe.bias + arm.shift) * arm.gain - arm.constant
    sides = {
        name: dataclasses.replace(side, content=side.content * arm.gain, special=side.special * arm.gain)
        for name, side in (("queries", probe.queries), ("documents", probe.documents))
    }
    probe = dataclasses.replace(probe, **sides, bias=level.astype(np.float32))
    k, _ = search_k(probe, np.zeros_like(probe.bias), aim=AIM)
    return dataclasses.replace(arm, k=k)


def apply(arm: Arm, model: Any, mean_row: np.ndarray) -> Any:
    """A copy of the model that starts as an arm does; H needs ``position_top_k``, J its query side's IDF, beside it."""
    model = copy.deepcopy(model)
    bias = ensure_bias(model).detach().float().cpu().numpy()
    untie(model)
    head = find_head(model)
    gain = torch.from_numpy(arm.gain)
    level = (bias + arm.shift) * arm.gain - arm.constant
    with torch.no_grad():
        weight = head.weight - torch.from_numpy(mean_row) if arm.source == "centred" else head.weight
        head.weight.copy_(weight * gain[:, None] / arm.k)
        head.bias.copy_(torch.from_numpy((level / arm.k if arm.divided else level).astype(np.float32)))
    record(model, k=arm.k, method=f"arm {arm.name}", bias=arm.divided)
    return model
