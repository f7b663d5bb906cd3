"""Tables and figures of the study from results.jsonl: ``python experiments/calibration/analyse.py``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from plan import GRID, STARTS, TRAINED_ON, UNSEEN
from run import finished
from scipy.stats import ttest_rel

from pyterrier_rescale.significance import holm

HERE = Path(__file__).parent
#: A run has collapsed if it ends below this share of BM25's nDCG@10 on its collection.
COLLAPSED = 0.15
DEFAULTS = {
    "steps": 250, "inflation": 1.0, "offset": "term", "rate": 0.03, "placement": "decoder", "lowercase": True,
    "penalty": 1.0, "layers": 3,
}  # fmt: skip


def load(path: Path) -> tuple[pd.DataFrame, dict[str, dict]]:
    """A row per run, and BM25's scores by collection."""
    rows, bm25 = [], {}
    for name, row in finished(path).items():
        if name.startswith("bm25-"):
            bm25 |= row["scores"]
            continue
        flat = {**row["run"], "k": row["k"], "seconds": row["seconds"], "warnings": row["warnings"]}
        flat["audit"], flat["dynamics"] = row.get("audit"), row.get("dynamics")
        for collection, figures in row["scores"].items():
            where = "" if collection == flat["collection"] else f"_{collection}"
            flat[f"ndcg{where}"], flat[f"active{where}"] = figures["ndcg"], figures["active_d"]
            flat[f"queries{where}"] = figures["per_query"]
        rows.append(flat)
    table = pd.DataFrame(rows)
    table["start"] = table["start"].map(lambda s: f"k={s:g}" if isinstance(s, float) else s)
    floor = table["collection"].map(lambda c: COLLAPSED * bm25.get(c, {"ndcg": 0.4})["ndcg"])
    table["collapsed"] = table["ndcg"] < floor
    return table, bm25


def plain(table: pd.DataFrame, **fixed: object) -> pd.DataFrame:
    """Runs with the study's defaults but for ``fixed``; a value of None leaves the field free."""
    for name, value in (DEFAULTS | fixed).items():
        if value is not None:
            table = table[table[name] == value]
    return table


def headline(table: pd.DataFrame, bm25: dict) -> str:
    """nDCG@10, mean and standard deviation over seeds, in and out of domain; p against k=16, Holm-corrected."""
    rows = plain(table)
    lines, tests = [], []
    for collection in TRAINED_ON:
        for family in rows["family"].unique():
            cell = rows[(rows["collection"] == collection) & (rows["family"] == family)]
            for start in [f"k={s:g}" if isinstance(s, float) else s for s in STARTS]:
                found = cell[cell["start"] == start]
                if found.empty:
                    continue
                line = {
                    "trained on": collection, "backbone": family, "start": start, "seeds": len(found),
                    "k": f"{found['k'].median():.3g}", "nDCG@10": spread(found["ndcg"]),
                    "terms/doc": f"{found['active'].mean():.0f}", "collapsed": int(found["collapsed"].sum()),
                }  # fmt: skip
                for unseen in UNSEEN:
                    if f"ndcg_{unseen}" in found:
                        line[unseen] = spread(found[f"ndcg_{unseen}"].dropna())
                if start in ("auto", "calibrated"):
                    for where in ("", *(f"_{u}" for u in UNSEEN)):
                        tests.append((line, where, p_against(cell, start, "k=16", where)))
                lines.append(line)
    for where in {where for _, where, _ in tests}:
        some = [(line, p) for line, w, p in tests if w == where]
        for (line, _), p in zip(some, holm([p for _, p in some]), strict=True):
            line[f"p{where.replace('_', ' ')}"] = "" if np.isnan(p) else ("<.001" if p < 0.001 else f"{p:.3f}"[1:])
    note = ", ".join(f"{name} {figures['ndcg']:.3f}" for name, figures in bm25.items())
    return f"{markdown(lines)}\n\nBM25 (Terrier): {note}.\n"


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation."""
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def p_against(cell: pd.DataFrame, start: str, other: str, where: str) -> float:
    """Paired t-test over queries of per-query means over the seeds that both have."""
    column = f"queries{where}"
    if column not in cell:
        return np.nan
    pairs = [cell[(cell["start"] == s)].dropna(subset=[column]).set_index("seed")[column] for s in (start, other)]
    seeds = sorted(set(pairs[0].index) & set(pairs[1].index))
    if not seeds:
        return np.nan
    a, b = (np.mean([list(part[seed]) for seed in seeds], axis=0) for part in pairs)
    return float(ttest_rel(a, b).pvalue) if np.ptp(a - b) else np.nan


def grid(table: pd.DataFrame) -> tuple[str, str]:
    """nDCG@10 by k, inflation and backbone, with auto's and calibrated's; and their regret against the best k."""
    rows = plain(table, inflation=None)
    rows = rows[rows["seed"] == 0]
    ks = ["raw", *(f"k={k:g}" for k in GRID)]
    lines, regrets = [], []
    for (collection, family, inflation), cell in rows.groupby(["collection", "family", "inflation"]):
        values = cell.set_index("start")["ndcg"]
        if not set(ks[1:]) <= set(values.index):
            continue
        line = {"collection": collection, "backbone": family, "inflation": f"{inflation:g}"}
        line |= {k: f"{values[k]:.3f}" if k in values else "" for k in ks}
        for start in ("auto", "calibrated"):
            if start in values:
                chosen = cell.loc[cell["start"] == start, "k"].iloc[0]
                line[start] = f"{values[start]:.3f} (k={chosen:.3g})"
                best = values[[k for k in ks if k in values]]
                regrets.append({
                    "start": start, "backbone": family, "inflation": f"{inflation:g}", "best k": best.idxmax(),
                    "its nDCG@10": f"{best.max():.3f}", "nDCG@10": f"{values[start]:.3f}",
                    "difference": f"{values[start] - best.max():+.3f}",
                    "relative": f"{values[start] / best.max() - 1:+.1%}",
                })  # fmt: skip
        lines.append(line)
    return markdown(lines), markdown(regrets)


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    a, b = values[positive], values[~positive]
    return float(np.mean((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None]))) if len(a) and len(b) else np.nan


def predictors(table: pd.DataFrame) -> tuple[str, str]:
    """Which number of the audit before training predicts a collapse, and the best threshold of the best ones."""
    rows = table[table["audit"].notna() & (table["steps"] >= 100)]
    audits = pd.DataFrame(rows["audit"].tolist())
    bad = rows["collapsed"].to_numpy()
    lines = []
    for name in audits.columns:
        values = audits[name].to_numpy(dtype=float)
        if np.isnan(values).any() or np.ptp(values) == 0:
            continue
        area = auc(values, bad)
        sign = 1 if area >= 0.5 else -1
        ordered = np.unique(values)
        cuts = (ordered[1:] + ordered[:-1]) / 2
        errors = [((sign * values > sign * cut) != bad).sum() for cut in cuts]
        cut = cuts[int(np.argmin(errors))]
        flagged = sign * values > sign * cut
        lines.append({
            "number": name, "AUC": max(area, 1 - area), "collapse if": f"{'>' if sign > 0 else '<'} {cut:.3g}",
            "missed": f"{int((bad & ~flagged).sum())} of {int(bad.sum())}",
            "false alarms": f"{int((~bad & flagged).sum())} of {int((~bad).sum())}",
        })  # fmt: skip
    lines.sort(key=lambda line: -line["AUC"])
    for line in lines:
        line["AUC"] = f"{line['AUC']:.3f}"
    return markdown(lines[:14]), f"{len(rows)} trained runs, {int(bad.sum())} collapsed"


def monitor(table: pd.DataFrame) -> str:
    """How often the monitor's verdict agrees with the end of the run, and after how many steps."""
    rows = table[table["steps"] >= 100]
    first = rows["warnings"].map(lambda w: int(re.match(r"step (\d+)", w[0]).group(1)) if w else None)
    bad, flagged = rows["collapsed"], first.notna()
    steps = first[bad & flagged]
    when = f"after {steps.min():.0f} to {steps.max():.0f} steps (median {steps.median():.0f})" if len(steps) else ""
    kinds = rows.loc[flagged, "warnings"].map(lambda w: re.sub(r"^step.*?: ", "", w[0]).split(" ")[0]).value_counts()
    return (
        f"Of {int(bad.sum())} collapsing runs the monitor flagged {int((bad & flagged).sum())}, {when}; of "
        f"{int((~bad).sum())} others it flagged {int((~bad & flagged).sum())}. First words of the verdicts: "
        f"{', '.join(f'{k} {v}' for k, v in kinds.items()) or 'none'}."
    )


def single_factors(table: pd.DataFrame) -> str:
    """Runs that leave the defaults in one field."""
    lines = []
    for name in ("steps", "offset", "rate", "placement", "lowercase", "layers", "penalty"):
        rows = plain(table, **{name: None})
        rows = rows[(rows["family"] == "modernbert") & (rows["seed"] == 0)]
        if rows[name].nunique() < 2:
            continue
        for (collection, start, value), cell in rows.groupby(["collection", "start", name], sort=True):
            twins = rows[(rows["collection"] == collection) & (rows["start"] == start)]
            if twins[name].nunique() > 1:
                lines.append({
                    "factor": name, "value": f"{value:g}" if isinstance(value, float) else str(value),
                    "collection": collection, "start": start, "nDCG@10": f"{cell['ndcg'].mean():.3f}",
                    "terms/doc": f"{cell['active'].mean():.0f}",
                })  # fmt: skip
    return markdown(lines)


def draw(table: pd.DataFrame, folder: Path) -> None:
    """dose.png (k against nDCG@10), sparsity.png (terms against nDCG@10), dynamics.png (training)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = plain(table, inflation=None)
    rows = rows[(rows["seed"] == 0) & (rows["collection"] == "vaswani")]
    families = [f for f in ("bert", "modernbert") if f in set(rows["family"])]
    figure, axes = pyplot.subplots(1, max(1, len(families)), figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, family in zip(np.atleast_1d(axes), families, strict=False):
        for inflation, cell in rows[rows["family"] == family].groupby("inflation"):
            fixed = cell[cell["start"].str.startswith("k=") | (cell["start"] == "raw")].sort_values("k")
            if len(fixed) < 3:
                continue
            (line,) = axis.plot(fixed["k"], fixed["ndcg"], marker=".", label=f"W x {inflation:g}")
            for start, mark in (("auto", "s"), ("calibrated", "*")):
                found = cell[cell["start"] == start]
                axis.scatter(found["k"], found["ndcg"], marker=mark, s=70, color=line.get_color())
        axis.set(xscale="log", xlabel="k (squares: auto; stars: calibrated)", title=family)
    np.atleast_1d(axes)[0].set_ylabel("nDCG@10")
    if any(axis.lines for axis in np.atleast_1d(axes)):
        np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8)
        figure.savefig(folder / "dose.png", dpi=110)

    rows = plain(table, penalty=None)
    rows = rows[(rows["family"] == "modernbert") & (rows["collection"] == "vaswani") & (rows["seed"] == 0)]
    figure, axis = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for start, cell in rows.groupby("start"):
        if len(cell) > 1:
            cell = cell.sort_values("penalty")
            axis.plot(cell["active"], cell["ndcg"], marker="o", label=start)
    axis.set(xscale="log", xlabel="active terms per document", ylabel="nDCG@10")
    if axis.lines:
        axis.legend(frameon=False)
        figure.savefig(folder / "sparsity.png", dpi=110)

    rows = plain(table)
    rows = rows[(rows["family"] == "modernbert") & (rows["collection"] == "vaswani") & (rows["seed"] == 0)]
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    shown = (("contrast", "in-batch loss / chance"), ("grad_norm", "gradient norm"), ("active_d", "terms per document"))
    for axis, (column, label) in zip(axes, shown, strict=True):
        for _, row in rows[rows["start"].isin(["raw", "k=16", "auto", "calibrated"])].iterrows():
            if row["dynamics"]:
                axis.plot(row["dynamics"]["step"], row["dynamics"][column], marker=".", label=row["start"])
        axis.set(xscale="log", yscale="log", xlabel="step", title=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(folder / "dynamics.png", dpi=110)


def markdown(lines: list[dict]) -> str:
    """A table of rows."""
    if not lines:
        return "(no runs yet)"
    columns = list(dict.fromkeys(column for line in lines for column in line))
    rows = [[str(line.get(column, "")) for column in columns] for line in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *rows])


def main() -> None:
    """Write tables.md and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    table, bm25 = load(options.results)
    by_k, regret = grid(table)
    areas, counted = predictors(table)
    share = table[table["steps"] >= 100].groupby("start")["collapsed"].agg(["sum", "size"])
    text = "\n\n".join([
        "# Tables of the calibration study", "Written by `analyse.py` from `results.jsonl`.",
        "## Headline", headline(table, bm25), "## k against the head's inflation", by_k,
        "## Against the best k of the grid", regret, "## Collapsed runs by start (all settings)",
        markdown([{"start": s, "collapsed": f"{r['sum']} of {r['size']}"} for s, r in share.iterrows()]),
        f"## What predicts a collapse ({counted})", areas, "## The monitor", monitor(table),
        "## One factor at a time", single_factors(table),
    ])  # fmt: skip
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    draw(table, options.out)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
