"""One self-contained page of a comparison: ``report.html``, with inline SVG and nothing from a network."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import __version__
from .._utils.durable import write_whole
from .examples import read_examples
from .figures import TRAINING_PANELS, effectiveness, format_p, training_curves
from .model_free import LEXICAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .results import ComparisonResults

#: Name of the page in a comparison's folder.
REPORT_FILE = "report.html"
_MEASURE = "nDCG@10"
# A colour that no figure uses: it becomes the page's text colour, light or dark.
_TEXT = "#010203"
_PACKAGES = ("pyterrier", "torch", "transformers", "sentence-transformers", "numpy", "scipy")
_MEANING = {
    "loss": "Guessing costs the logarithm of the number of documents in a batch; below that, something is learnt.",
    "score_std": "How far the scores within a batch lie apart: where it is tens or hundreds, the loss's softmax is "
    "certain of one document and has hardly any gradient; near 0, all documents look alike.",
    "active_d": "Weights above zero per document: what the index has to hold.",
}
_AUDIT_ROWS = (
    ("row_norm_mean", "mean row norm of W, the head's matrix with a row per term"),
    ("random_saturation", "share of the softmax that the strongest of the random documents takes"),
    ("random_std", "standard deviation of the scores of random queries and documents"),
    ("active_terms", "active terms per document"),
    ("active_terms_query", "active terms per query"),
    ("suggested_k", "suggested k"),
)


def write_report(comparison: ComparisonResults, command: str | None = None) -> Path:
    """Write ``report.html`` into the comparison's folder: one file that needs no network, document texts escaped.

    See :meth:`~pyterrier_rescale.evaluation.comparison.Comparison.report`.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        config=comparison.config,
        rows=_rows(comparison),
        audits=_audits(comparison),
        figures=_figures(comparison),
        examples=read_examples(comparison.output_dir),
        command=command or _call(comparison.config),
        versions=[("pyterrier_rescale", __version__), *((name, version(name)) for name in _PACKAGES)],
        measure=_MEASURE,
        model_free=comparison.results["name"].str.endswith(tuple(LEXICAL)).any(),
    )
    path = comparison.output_dir / REPORT_FILE
    write_whole(path, page)
    return path


def confidence_interval(values: pd.Series) -> tuple[float, float]:
    """Student's 95% t-interval of a mean over topics; equal ends where there are fewer than two or all are equal."""
    from scipy import stats

    mean, error = float(values.mean()), float(stats.sem(values)) if len(values) > 1 else 0.0
    if not error > 0:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return max(float(low), 0.0), min(float(high), 1.0)  # measures lie between 0 and 1


def _rows(comparison: ComparisonResults) -> list[dict[str, Any]]:
    """The main table, one dict per system: cells ready to print."""
    results, per_query = comparison.results, comparison.per_query
    values = per_query[per_query["measure"].astype(str) == _MEASURE]
    best = results[_MEASURE].max()
    rows = []
    for _, row in results.iterrows():
        low, high = confidence_interval(values.loc[values["name"] == row["name"], "value"])
        rows.append({
            "name": row["name"],
            "best": row[_MEASURE] == best,
            "mean": f"{row[_MEASURE]:.3f}",
            "interval": f"{low:.3f} to {high:.3f}",
            "width": 100 * row[_MEASURE] / best if best > 0 else 0,
            "p": format_p(row.get(f"p {_MEASURE}")),
            "active_q": _number(row.get("active_q"), "{:,.0f}"),
            "active_d": _number(row.get("active_d"), "{:,.0f}"),
            "ms": _number(row.get("ms_per_query"), "{:.1f}"),
            "train": _number(row.get("train_s"), "{:,.0f} s"),
            "index": _number(row.get("index_mb"), "{:,.1f} MB"),
        })
    return rows


def _number(value: Any, form: str) -> str:
    return "" if value is None or pd.isna(value) else form.format(value)


def _audits(comparison: ComparisonResults) -> list[dict[str, Any]]:
    """The heads before and after training, of the encoders that kept their audits."""
    from ..training.model_card import AUDITS_FILE

    found = []
    for name, folder in comparison.results[["name", "folder"]].dropna().itertuples(index=False):
        file = comparison.output_dir / "encoders" / folder / AUDITS_FILE
        if not file.exists():
            continue
        audits = json.loads(file.read_text(encoding="utf-8"))
        sides = [audits.get("before") or {}, audits.get("after") or {}]
        found.append({
            "name": name,
            "verdict": sides[0].get("verdict", ""),
            "rows": [
                (label, *(_number(side.get(key), "{:.4g}") for side in sides))
                for key, label in _AUDIT_ROWS
                if any(side.get(key) is not None for side in sides)
            ],
        })
    return found


def _figures(comparison: ComparisonResults) -> list[dict[str, str]]:
    """Figures as inline SVG, each with a title and a text for those who do not see it."""
    drawn: list[tuple[str, Callable[[Any], Figure], str]] = [
        (
            "Effectiveness against active terms",
            effectiveness,
            f"{_MEASURE} of each system against its active terms per document: further up is better, further left is "
            "sparser. Crosses: the word pieces without a model. The table holds the same numbers, and the milliseconds "
            "per query.",
        )
    ]
    for column, title in TRAINING_PANELS.items():
        drawn.append((
            title[0].upper() + title[1:],
            lambda c, column=column: training_curves(c, [column]),
            f"{_MEANING[column]} A line per training run, over its steps ({column} in monitor.csv).",
        ))
    return [{"title": title, "alt": alt, "svg": _svg(draw, comparison, title)} for title, draw, alt in drawn]


def _svg(draw: Callable[[Any], Figure], comparison: ComparisonResults, title: str) -> str:
    import matplotlib

    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings = {**dict.fromkeys(colours, _TEXT), "svg.fonttype": "none", "svg.hashsalt": title}
    with matplotlib.rc_context(settings):
        out = io.StringIO()
        draw(comparison).savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    head, rest = svg.split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest  # the page gives the width, the view box the rest


def _call(config: dict[str, Any]) -> str:
    """The comparison as a call, without the folders of this machine."""
    backbones = {name: Path(model).name for name, model in config["backbones"].items()}
    given = {key: config[key] for key in ("split", "engine", "untrained", "num_results", "max_length", "seed")}
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    return (
        f"compare({config['collection']!r}, {backbones!r}, output_dir, rescalings={config['rescalings']!r}, "
        f"{arguments}, training={config['training']!r})"
    )
