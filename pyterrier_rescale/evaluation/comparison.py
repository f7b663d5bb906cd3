"""Compare backbones and rescalings: train each alike, index each, then one ``pt.Experiment`` with BM25 beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.checks import check_integer
from .._utils.files import expand, write_whole
from .._utils.made_from import claim, read_record
from ..collections import load_collection
from ..collections.base import hint_at_levels
from ..indexing.corpus import corpus_fingerprint
from ..indexing.engines import engine_class
from ..indexing.own_documents import WithoutOwnDocuments
from ..splade import Splade
from ..training import TrainConfig
from ..training.dev_evaluation import DevSet
from .experiment import experiment, holm_against_twins
from .figures import conclusion, draw_figures, markdown_table
from .report import topic_examples, write_report
from .rows import Indexer, Row, fuse, make_encoder
from .system import GIVEN, System, check_backbones, parse_rescale, rescale_label

_RECORD, _FACTS = "config.json", "facts.json"
MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")


@dataclass
class Comparison:
    """Results of :func:`compare`, which can be shown as one page.

    Attributes:
        results: a row per system; ``encoders/`` and ``indexes/`` have a folder of its name. ``p`` is that of a paired
            t-test against the row ``against``.
        per_query: ``name, qid, measure, value``.
        output_dir: the folder with everything.
        config: what was compared, and how.
        examples: topics seen closely, for the report.
    """

    results: pd.DataFrame
    per_query: pd.DataFrame
    output_dir: Path
    config: dict[str, Any] = field(repr=False)
    examples: list[dict[str, Any]] = field(repr=False)

    @property
    def conclusion(self) -> list[str]:
        """What the table says, in a few sentences."""
        return conclusion(self.results)

    def report(self) -> Path:
        """Write ``report.html`` into the folder, and return it: one page that needs nothing else."""
        return write_report(self)


def compare(
    collection: Any,
    backbones: Mapping[str, Any],
    output_dir: str | os.PathLike[str],
    *,
    rescalings: Sequence[float | str | None] = (None, 16.0),
    split: str = "test",
    engine: str = "terrier",
    untrained: bool = False,
    model_free: bool = True,
    num_results: int = 1000,
    min_label: int = 1,
    drop_own: bool = True,
    max_length: int = 256,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    command: str | None = None,
    verbose: bool = True,
) -> Comparison:
    """Train every backbone with every rescaling, index, retrieve, evaluate, test, and draw; BM25 beside and fused in.

    Interrupted and called again with the same arguments, it continues with every encoder and index that is complete. A
    system that finds nothing, or whose training collapses, gets a row of zeros.

    Args:
        collection: a collection with training pairs, or the name of one.
        backbones: ``{name: folder or hub name}`` of masked LMs. A ``Splade``, or a folder of one, is trained already:
            it is indexed and scored as it is.
        output_dir: gets ``report.html``, ``results.csv``, ``per_query.csv``, ``runs/``, ``config.json``, ``figures/``,
            ``encoders/`` and ``indexes/``.
        rescalings: each ``None``, a number, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        split: the split that is scored; training uses ``collection.train_pairs()``.
        engine: index engine of the trained encoders.
        untrained: score the same encoders before training, too, with the exact engine: their vectors may be nearly
            dense, where a Terrier index (unary weights) would take gigabytes.
        model_free: show what each backbone's word pieces reach without a model, on the same ``max_length`` tokens:
            pieces x IDF, and BM25 (:class:`~pyterrier_rescale.LexicalEncoder`).
        num_results: documents per query.
        min_label: lower labels are not relevant: for RR, AP and recall (nDCG takes labels as gains), and as training
            pairs.
        drop_own: where a topic is a document of the collection (the same id, and the query is the text), leave it out
            of its own results.
        max_length: tokens per text.
        seed: of the training.
        training: options of :func:`~pyterrier_rescale.train`, and ``dev``; ``monitor="warn"`` if it is not among them.
        overwrite: start anew where ``output_dir`` holds another comparison.
        say: told each step, one line each.
        command: what the report says it was made by.
        verbose: show progress bars.

    Raises:
        FileExistsError: ``output_dir`` holds something else than a comparison.
        ImportError: the engine's package is not installed.
        TypeError, ValueError: for bad arguments, or if ``output_dir`` holds a comparison of other inputs.
    """
    engine_class(engine)  # which may not be installed
    if isinstance(collection, (str, os.PathLike)):
        collection = load_collection(collection)
    models = check_backbones(backbones)
    trainable = {name: model for name, model in models.items() if isinstance(model, str)}
    if isinstance(rescalings, str) or not rescalings:
        raise TypeError(f"rescalings must be a list of none, numbers, auto, calibrated, learned, got {rescalings!r}")
    rescalings = list(dict.fromkeys(parse_rescale(value) for value in rescalings))
    num_results, max_length = check_integer("num_results", num_results), check_integer("max_length", max_length)
    check_integer("min_label", min_label)
    options = {"monitor": "warn", "max_length": max_length, "seed": seed, **(training or {})}
    dev = options.pop("dev", None)
    for rescale in rescalings:
        TrainConfig.from_dict(dict(rescale=rescale, **options)).check_dev(dev)
    topics, qrels = collection.topics(split), collection.qrels(split)
    if not topics["qid"].isin(qrels["qid"]).any():
        raise ValueError(f"split {split!r} of {collection.name!r} has no topic with judgements: nothing can be scored")
    hint_at_levels(qrels, min_label, f"split {split!r} of {collection.name!r}")
    pairs = collection.train_pairs(*[] if min_label == 1 else [min_label]) if trainable else []
    config = {
        "collection": collection.name, "split": split, "documents": corpus_fingerprint(collection.corpus),
        "topics": corpus_fingerprint(topics, ("qid", "query")),
        "qrels": corpus_fingerprint(qrels, ("qid", "docno", "label")),
        "pairs": corpus_fingerprint(({"pair": list(pair)} for pair in pairs), ("pair",)) if pairs else None,
        "dev": None if dev is None else DevSet(dev).fingerprint,
        "backbones": {
            name: (Splade(model) if name in trainable else model).fingerprint for name, model in models.items()
        },
        "rescalings": [rescale_label(value) for value in rescalings], "engine": engine, "untrained": untrained,
        "model_free": model_free, "num_results": num_results, "min_label": min_label, "drop_own": drop_own,
        "max_length": max_length, "seed": seed,
        "training": json.loads(json.dumps(dict(training or {}, dev=None), default=str)),
    }  # fmt: skip
    output_dir = expand(output_dir)
    claim(output_dir, _RECORD, config, overwrite=overwrite, made=(_FACTS, "encoders", "indexes", "runs", "figures"))

    without_own = WithoutOwnDocuments(collection.corpus, num_results) if drop_own else None
    indexes = output_dir / "indexes"
    indexer = Indexer(collection, config["documents"], topics, indexes, num_results, verbose, without_own)
    say("BM25")
    rows = {"BM25": indexer.bm25()}
    if model_free:
        say("model-free rows: the backbones' word pieces by IDF and BM25")
        rows |= indexer.lexical(models, options["max_length"], bool(options.get("lowercase")))
    listed = [System(name, value, False) for name in trainable for value in rescalings if value != "learned"]
    listed = (listed if untrained else []) + [System(name, value) for name in trainable for value in rescalings]
    listed += [System(name, GIVEN) for name in models if name not in trainable]
    facts = read_record(output_dir, _FACTS) or {}
    for number, system in enumerate(listed, start=1):
        name, folder, encoder = system.name, output_dir / "encoders" / system.name, models[system.backbone]
        say(f"[{number}/{len(listed)}] {name}")
        if not system.given:
            if name not in facts:
                facts[name] = make_encoder(system, encoder, pairs, folder, {**options, "dev": dev, "verbose": verbose})
                write_whole(output_dir / _FACTS, json.dumps(facts, indent=2))
            if "collapsed" in facts[name]:
                say(f"{name}: its training collapsed: {facts[name]['collapsed']}")
            encoder = None if "collapsed" in facts[name] else Splade(folder)
        rows[name] = indexer.row(name, encoder, engine if system.trained else "exact", system)
        rows[name].facts["train_s"] = facts.get(name, {}).get("train_s")
    trained = [system for system in listed if system.trained and rows[system.name].encoder is not None]
    rows |= {f"BM25 + {one.name}": fuse(rows["BM25"], rows[one.name]) for one in trained}

    say(f"pt.Experiment: {len(rows)} systems, {len(topics)} topics")
    pipelines = {name: row.pipeline for name, row in rows.items()}
    means, per_query = experiment(pipelines, topics, qrels, MEASURES, output_dir / "runs", say, verbose, min_label)
    results = _table(rows, means, per_query)
    write_whole(output_dir / "per_query.csv", per_query.to_csv(index=False))
    write_whole(output_dir / "results.csv", results.to_csv(index=False))
    write_whole(output_dir / "results.md", markdown_table(results) + "\n")
    first = next(iter(models))
    shown = {one.name: rows[one.name] for one in trained if one.given or one.backbone == first}
    examples = topic_examples(shown, per_query, topics, qrels[qrels["label"] >= min_label], collection) if shown else []
    config |= {"topics": len(topics), "command": command}
    comparison = Comparison(results, per_query, output_dir, config, examples)
    draw_figures(comparison, trainable)
    comparison.report()
    return comparison


def _table(rows: Mapping[str, Row], means: pd.DataFrame, per_query: pd.DataFrame) -> pd.DataFrame:
    twins = {name: row.twin for name, row in rows.items() if row.twin in rows and row.twin != name}
    p_values: dict[tuple[str, str], float] = {}
    for bm25 in (False, True):  # two questions: each has a correction of its own
        asked = {name: twin for name, twin in twins.items() if (twin == "BM25") == bm25}
        p_values |= holm_against_twins(per_query, asked, MEASURES)
    return pd.DataFrame([
        {
            "name": name,
            "backbone": None if row.system is None else row.system.backbone,
            "rescale": None if row.system is None else rescale_label(row.system.rescale),
            "trained": None if row.system is None else row.system.trained,
            **{measure: float(means.loc[name, measure]) for measure in MEASURES},
            "against": twins.get(name),
            **{f"p {measure}": p_values.get((name, measure)) for measure in MEASURES},
            "ms_per_query": float(means.loc[name, "mrt"]),
            **row.facts,
        }
        for name, row in rows.items()
    ])
