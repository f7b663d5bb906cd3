"""One self-contained page of a comparison: ``report.html``, with inline SVG and nothing from a network."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import __version__
from .._utils.files import write_whole
from .figures import TRAINING_PANELS, effectiveness, table_cells, training_curves
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURE = "nDCG@10"
# Of the topics seen closely: how many, and what is shown of each.
_TOPICS, _TERMS, _RANKS = 5, 12, 5
# A colour that no figure uses: it becomes the page's text colour, light or dark.
_TEXT = "#010203"
_PACKAGES = ("pyterrier", "torch", "transformers", "numpy", "scipy")
_MEANING = {
    "loss": "Guessing costs the logarithm of the number of documents in a batch; below that, something is learnt.",
    "score_std": "How far the scores within a batch lie apart: where it is tens or hundreds, the loss's softmax is "
    "certain of one document and has hardly any gradient; near 0, all documents look alike.",
    "active_d": "Weights above zero per document: what the index has to hold.",
}
# Of the heads before and after training: name in head_audit.json -> heading, format.
_AUDITED = {
    "row_norm_mean": ("row norm of W", "{:.2f}"),
    "random_saturation": ("strongest random document", "{:.0%}"),
    "random_std": ("std of random scores", "{:,.1f}"),
    "active_terms_query": ("terms/query", "{:,.0f}"),
    "active_terms": ("terms/doc", "{:,.0f}"),
}


def write_report(comparison: Any) -> Path:
    """Write ``report.html`` into the comparison's folder, as ``Comparison.report`` says; texts are escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        config=comparison.config,
        rows=_rows(comparison),
        conclusion=comparison.conclusion,
        audited=[heading for heading, _ in _AUDITED.values()],
        audits=_audits(comparison),
        figures=_figures(comparison),
        examples=comparison.examples,
        versions=[("pyterrier_rescale", __version__), *((name, version(name)) for name in _PACKAGES)],
        measure=_MEASURE,
    )
    write_whole(comparison.output_dir / "report.html", page)
    return comparison.output_dir / "report.html"


def confidence_interval(values: pd.Series) -> tuple[float, float]:
    """Student's 95% t-interval of a mean over topics; equal ends where there are fewer than two or all are equal."""
    from scipy.stats import ttest_1samp

    if values.nunique() < 2:
        return values.iloc[0], values.iloc[0]
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    return max(float(low), 0.0), min(float(high), 1.0)  # measures lie between 0 and 1


def _rows(comparison: Any) -> list[dict[str, Any]]:
    """The main table, one dict per system: cells ready to print."""
    values = comparison.per_query[comparison.per_query["measure"] == _MEASURE]
    best = comparison.results[_MEASURE].max()
    rows = []
    for row, cells in zip(comparison.results.to_dict("records"), table_cells(comparison.results), strict=True):
        low, high = confidence_interval(values.loc[values["name"] == row["name"], "value"])
        width = 100 * row[_MEASURE] / best if best > 0 else 0
        interval = f"{low:.3f} to {high:.3f}"
        rows.append({**cells, "best": row[_MEASURE] == best, "interval": interval, "width": width})
    return rows


def _audits(comparison: Any) -> list[dict[str, Any]]:
    """The heads before and after training, of the encoders that kept their audits; a verdict for each backbone."""
    found, seen = [], set()
    for name, backbone in comparison.results[["name", "backbone"]].itertuples(index=False):
        file = comparison.output_dir / "encoders" / name / "head_audit.json"
        if file.exists():
            sides = [json.loads(file.read_text(encoding="utf-8"))[side] or {} for side in ("before", "after")]
            values = [[(form, side.get(key)) for side in sides] for key, (_, form) in _AUDITED.items()]
            cells = [["–" if value is None else form.format(value) for form, value in pair] for pair in values]
            verdict = "" if backbone in seen else sides[0].get("verdict", "")
            cells = [" → ".join(pair) for pair in cells]
            found.append({"name": name, "backbone": backbone, "cells": cells, "verdict": verdict})
            seen.add(backbone)
    return found


def _figures(comparison: Any) -> list[dict[str, str]]:
    """Figures as inline SVG, each with a title and a text for those who do not see it."""
    told = (
        f"{_MEASURE} of each system against its active terms per document: further up is better, further left is "
        "sparser. Crosses: the word pieces without a model. The table holds the same numbers, and the milliseconds per "
        "query."
    )
    shown = [("Effectiveness against active terms", told, partial(effectiveness, comparison))]
    for column, title in TRAINING_PANELS.items():
        told = f"{_MEANING[column]} A line per training run, over its steps ({column} in monitor.csv)."
        shown.append((title[0].upper() + title[1:], told, partial(training_curves, comparison, [column])))
    return [{"title": title, "alt": told, "svg": _svg(draw, title)} for title, told, draw in shown]


def _svg(draw: Callable[[], Figure], title: str) -> str:
    import matplotlib

    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings = {**dict.fromkeys(colours, _TEXT), "svg.fonttype": "none", "svg.hashsalt": title}
    with matplotlib.rc_context(settings):
        out = io.StringIO()
        draw().savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    head, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest  # the page gives the width, the view box the rest


def topic_examples(
    rows: Mapping[str, Row], per_query: pd.DataFrame, topics: pd.DataFrame, qrels: pd.DataFrame, collection: Any
) -> list[dict[str, Any]]:
    """The five topics on which the rows' nDCG@10 lie furthest apart: their terms, best documents and rankings.

    ``qrels`` are those of relevant documents alone.
    """
    values = per_query[(per_query["measure"] == _MEASURE) & per_query["name"].isin(rows)]
    scores = values.pivot(index="qid", columns="name", values="value").fillna(0.0)
    spread = scores.max(axis=1) - scores.min(axis=1)
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    chosen = sorted(set(spread.index) & set(queries), key=lambda qid: (-spread[qid], qid))[:_TOPICS]
    asked = topics[topics["qid"].isin(chosen)]
    found = {name: row.pipeline(asked).query(f"rank < {_RANKS}").sort_values("rank") for name, row in rows.items()}
    needed = set(pd.concat(found.values())["docno"])
    texts = {d["docno"]: d["text"] for d in collection.corpus() if d["docno"] in needed}
    relevant = set(zip(qrels["qid"], qrels["docno"], strict=True))
    examples = []
    for qid in chosen:
        systems = []
        for name, row in rows.items():
            docnos = found[name].loc[found[name]["qid"] == qid, "docno"].tolist()
            shown = row.encoder.explain(queries[qid], texts[docnos[0]] if docnos else "")
            shared = shown[shown["contribution"] > 0]
            systems.append({
                "system": name,
                "ndcg": float(scores.loc[qid, name]),
                "query_terms": shown.nlargest(_TERMS, "query_weight")[["term", "query_weight"]].values.tolist(),
                "ranking": [{"docno": docno, "relevant": (qid, docno) in relevant} for docno in docnos],
                "text": texts[docnos[0]] if docnos else "",
                "score": shown.score,
                "shared": len(shared),
                "terms": shared.head(_TERMS).to_dict("records"),
            })
        count = sum(one == qid for one, _ in relevant)
        examples.append({"qid": qid, "query": queries[qid], "relevant": count, "systems": systems})
    return examples
