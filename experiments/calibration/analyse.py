"""Tables and figures of the study from results.jsonl: ``python experiments/calibration/analyse.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from figures import draw
from plan import GRID, STARTS, TRAINED_ON, UNSEEN
from run import finished
from scipy.stats import ttest_rel

from pyterrier_rescale.analysis.verdict import judge
from pyterrier_rescale.evaluation.experiment import holm

HERE = Path(__file__).parent
#: Runs of another experiment that the monitor watched, too.
OTHER_RUNS = HERE.parent / "training" / "results.csv"
#: A run has collapsed if it ends below this share of BM25's nDCG@10 on its collection.
COLLAPSED = 0.15
#: The k among which auto should find the best one.
CORE = (1.0, 8.0, 16.0)
DEFAULTS = {
    "steps": 250, "offset": "term", "centre": True, "rate": 0.03, "placement": "decoder",
    "lowercase": True, "penalty": 1.0, "layers": 3,
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
    # earlier runs lack fields that came later, and do not differ in them
    table = table.assign(**{name: value for name, value in DEFAULTS.items() if name not in table})
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


def headline(table: pd.DataFrame, bm25: dict, collections: tuple[str, ...] = TRAINED_ON) -> str:
    """nDCG@10, mean and standard deviation over seeds, in and out of domain; p against k=16, Holm-corrected."""
    rows = plain(table)
    lines, tests = [], []
    for collection in collections:
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
    add_corrected(tests)
    shown = {name: bm25[name]["ndcg"] for name in (*collections, *UNSEEN) if name in bm25}
    note = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    return f"{markdown(lines)}\n\nBM25 (Terrier): {note}.\n"


def add_corrected(tests: list[tuple[dict, str, float]]) -> None:
    """Write p into the lines (line, ``""`` or ``"_<unseen collection>"``, p), Holm-corrected per collection scored."""
    for where in dict.fromkeys(where for _, where, _ in tests):
        some = [(line, p) for line, w, p in tests if w == where]
        for (line, _), p in zip(some, holm([p for _, p in some]), strict=True):
            line[f"p{where.replace('_', ' ')}"] = number(p)


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


def number(value: float) -> str:
    """A p-value as tables show it."""
    return "" if np.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}"[1:] if value < 1 else "1"


def cells(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(collection, family, its rows with the defaults), where the whole grid of k was run."""
    rows = plain(table)
    for (collection, family), cell in rows.groupby(["collection", "family"]):
        if set(GRID) <= set(fixed(cell)["k"]):
            yield collection, family, cell


def fixed(table: pd.DataFrame) -> pd.DataFrame:
    """Runs with a k that was not measured; raw is k = 1."""
    return table[table["start"].str.startswith("k=") | (table["start"] == "raw")]


def grid(table: pd.DataFrame) -> str:
    """nDCG@10, active terms and collapse by k; means over the seeds that were run."""
    lines = []
    for collection, family, cell in cells(table):
        for what, column, form in (("nDCG@10", "ndcg", ".3f"), ("terms/doc", "active", ".0f")):
            line = {"collection": collection, "backbone": family, "": what}
            line |= {f"{k:g}": f"{value:{form}}" for k, value in fixed(cell).groupby("k")[column].mean().items()}
            means = cell.groupby("start")[column].mean()
            line |= {s: f"{means[s]:{form}}" for s in ("auto", "calibrated", "learned") if s in means}
            lines.append(line)
    return markdown(lines)


def regret(table: pd.DataFrame) -> str:
    """What auto and calibrated lose or win against the k that is best on the scored topics themselves.

    Over the seeds that were run with every k of ``CORE``; a k that some of them lack is left out.
    """
    lines, tests = [], []
    for (collection, family), cell in plain(table).groupby(["collection", "family"]):
        values = fixed(cell).pivot_table(index="k", columns="seed", values="ndcg")
        if not set(CORE) <= set(values.index):
            continue
        seeds = values.columns[values.loc[list(CORE)].notna().all()]
        means = values[seeds].dropna().mean(axis=1)
        if means.empty:
            continue
        cell = cell[cell["seed"].isin(seeds)]
        best = means.idxmax()
        for start in ("k=16", "auto", "calibrated"):
            found = cell[cell["start"] == start]
            if set(seeds) - set(found["seed"]):
                continue
            value = found["ndcg"].mean()
            lines.append({
                "collection": collection, "backbone": family, "seeds": len(seeds),
                "grid": ", ".join(f"{k:g}" for k in means.index), "best k": f"{best:g}",
                "its nDCG@10": f"{means.max():.3f}", "start": start, "its k": f"{found['k'].mean():.3g}",
                "nDCG@10": f"{value:.3f}", "relative": f"{value / means.max() - 1:+.1%}",
            })  # fmt: skip
            tests.append(p_against(cell, start, f"k={best:g}" if best != 1 else "raw", ""))
    for line, p in zip(lines, holm(tests), strict=True):
        line["p"] = number(p)
    return markdown(lines)


def frequency(table: pd.DataFrame) -> str:
    """Spearman of a term's mean weight, bias and row norm with its log frequency, before any training."""
    rows = plain(table)
    rows = rows[rows["audit"].notna() & rows["start"].isin(["raw", "k=16", "auto", "calibrated"])]
    names = ("frequency_weight", "frequency_bias", "frequency_norm", "special_share", "cosine_vectors")
    lines = []
    for (family, start), cell in rows.groupby(["family", "start"]):
        audits = pd.DataFrame(cell["audit"].tolist()).reindex(columns=names)
        lines.append({"backbone": family, "start": start, **{n: f"{audits[n].mean():.2f}" for n in names}})
    return markdown(lines)


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
    for name in audits.columns.difference(["tied", "rows", "used_rows", "texts", "temperature"], sort=False):
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
    return markdown(lines[:20]), f"{len(rows)} trained runs, {int(bad.sum())} collapsed"


def verdicts(table: pd.DataFrame) -> str:
    """What the audit said of each start, before training, against how the run ended."""
    rows = table[table["audit"].notna() & (table["steps"] >= 100)]
    bad = rows["collapsed"].to_numpy()
    # results recorded earlier call the audit's InfoNCE loss
    audits = [{"infonce": audit.get("loss"), **audit, "rescaled_by": np.nan} for audit in rows["audit"]]
    found = [set(judge(audit, 1.0)[0]) for audit in audits]
    lines = []
    for name in ("scale mismatch", "dense start", "sink", "anisotropic", "dead"):
        said = np.array([name in findings for findings in found])
        lines.append({
            "finding": name, "said of collapsing runs": f"{int((said & bad).sum())} of {int(bad.sum())}",
            "said of others": f"{int((said & ~bad).sum())} of {int((~bad).sum())}",
        })  # fmt: skip
    return markdown(lines)


def monitor(table: pd.DataFrame, bm25: dict) -> str:
    """How often the monitor's verdict agrees with the end of the run, and after how many steps."""
    rows = table[table["steps"] >= 100]
    parts = [("this study", rows["collapsed"], rows["warnings"].map(lambda w: w[0] if w else ""))]
    if OTHER_RUNS.exists():
        other = pd.read_csv(OTHER_RUNS)
        floor = other["collection"].map(lambda c: COLLAPSED * bm25[c]["ndcg"])
        parts.append(("experiments/training", other["nDCG@10"] < floor, other["monitor"].fillna("")))
    parts.append(("together", *(pd.concat([part[n] for part in parts], ignore_index=True) for n in (1, 2))))
    lines = []
    for name, bad, said in parts:
        flagged = said != ""
        steps = said[bad & flagged].str.extract(r"step (\d+)")[0].astype(float)
        lines.append({
            "runs": name, "collapsing": int(bad.sum()), "flagged": int((bad & flagged).sum()),
            "after steps (median, range)": f"{steps.median():.0f}, {steps.min():.0f} to {steps.max():.0f}"
            if len(steps) else "", "others": int((~bad).sum()), "flagged falsely": int((~bad & flagged).sum()),
        })  # fmt: skip
    return markdown(lines)


def single_factors(table: pd.DataFrame) -> str:
    """Runs that leave the defaults in one field; p against k=16 at the same value of it, Holm-corrected."""
    lines, tests = [], []
    for name in ("steps", "offset", "centre", "rate", "placement", "lowercase", "layers", "penalty"):
        rows = plain(table, **{name: None})
        rows = rows[(rows["family"] == "modernbert") & (rows["seed"] == 0)]
        if rows[name].nunique() < 2:
            continue
        for (collection, start, value), cell in rows.groupby(["collection", "start", name], sort=True):
            twins = rows[(rows["collection"] == collection) & (rows["start"] == start)]
            if twins[name].nunique() < 2:
                continue
            lines.append({
                "factor": name, "value": f"{value:g}" if isinstance(value, float) else str(value),
                "collection": collection, "start": start, "nDCG@10": f"{cell['ndcg'].mean():.3f}",
                "terms/doc": f"{cell['active'].mean():.0f}",
                **{u: spread(cell[f"ndcg_{u}"].dropna()) for u in UNSEEN},
            })  # fmt: skip
            if start in ("auto", "calibrated"):
                beside = rows[(rows["collection"] == collection) & (rows[name] == value)]
                for where in ("", *(f"_{u}" for u in UNSEEN)):
                    tests.append((lines[-1], where, p_against(beside, start, "k=16", where)))
    add_corrected([test for test in tests if not np.isnan(test[2])])
    return markdown(lines)


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
    areas, counted = predictors(table)
    share = table[table["steps"] >= 100].groupby("start")["collapsed"].agg(["sum", "size"])
    options.out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([
        "# Tables of the calibration study", f"Written by `analyse.py` from `{options.results.name}`.",
        "## Headline", headline(table, bm25), "## A third collection", headline(table, bm25, ("medquad",)),
        "## Dose and response: nDCG@10 by k", grid(table),
        "## Against the k of the grid that is best on the scored topics", regret(table),
        "## Collapsed runs by start (all settings)",
        markdown([{"start": s, "collapsed": f"{r['sum']} of {r['size']}"} for s, r in share.iterrows()]),
        f"## What predicts a collapse ({counted})", areas, "## What the audit says", verdicts(table),
        "## Frequency bias and sinks before training", frequency(table), "## The monitor", monitor(table, bm25),
        "## One factor at a time", single_factors(table),
    ])  # fmt: skip
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    draw(table, plain, bm25, options.out)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
