"""The setting of arXiv:2606.18811, one command per system: train on MS MARCO, score MS MARCO dev, DL 2019/20, BEIR-13.

    python experiments/paper/run.py modernbert-k16     # or several, or "all"; finished steps are skipped
    python experiments/paper/run.py --list             # the systems, with estimated GPU hours and disk
    python experiments/paper/run.py bert-k16 --dry-run # every step on tiny stand-ins, offline, in a minute
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pyterrier_rescale import Splade
    from pyterrier_rescale.training import TrainConfig

HERE = Path(__file__).parent
WINDOW = 2048  # documents that are encoded together; triples whose texts are looked up together
SAMPLE = 256  # documents that tell how dense the vectors are


def load_settings() -> dict[str, Any]:
    return json.loads((HERE / "settings.json").read_text(encoding="utf-8"))


def system_names(settings: dict[str, Any]) -> list[str]:
    """All systems, ``<backbone>-<rescaling>``, and the records, by their recipes' names."""
    own = [f"{backbone}-{rescaling}" for backbone in settings["backbones"] for rescaling in settings["rescalings"]]
    return [*own, *settings["records"]]


def train_config(settings: dict[str, Any], system: str) -> TrainConfig:
    """The training options of a system; ``train_config.json`` in its encoder's folder is the same."""
    from pyterrier_rescale.training import TrainConfig

    if system in settings["records"]:
        given = {"recipe": system, **settings["record_training"]}
        return TrainConfig.from_dict({**given, "negatives": settings["records"][system]["negatives"]})
    rescaling = system.partition("-")[2]
    return TrainConfig.from_dict({**settings["training"], "rescale": settings["rescalings"][rescaling]})


# Step 1: training triples


def write_triples(settings: dict[str, Any], path: Path) -> Path:
    """Write as many (query, positive, negative) as training uses, in the order of ir_datasets; once for all systems."""
    if path.exists():
        return path
    wanted = settings["training"]["batch_size"] * settings["training"]["max_steps"]
    beside = path.with_name(f".{path.name}")
    with beside.open("w", encoding="utf-8") as out:
        for row in _triples(settings["triples"], wanted):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(beside, path)
    return path


def _triples(dataset_id: str, wanted: int) -> Iterator[dict[str, str]]:
    import ir_datasets

    dataset = ir_datasets.load(dataset_id)
    queries = {query.query_id: query.text for query in dataset.queries_iter()}
    store = dataset.docs_store()
    pairs = islice(dataset.docpairs_iter(), wanted)
    while window := list(islice(pairs, WINDOW)):
        documents = store.get_many({docno for pair in window for docno in (pair.doc_id_a, pair.doc_id_b)})
        for pair in window:
            positive, negative = documents[pair.doc_id_a].text, documents[pair.doc_id_b].text
            yield {"query": queries[pair.query_id], "positive": positive, "negative": negative}


# Step 2: the encoder


def trained_encoder(settings: dict[str, Any], system: str, triples: Path, folder: Path) -> Splade:
    """Train (or go on, or load what is finished) and open for encoding."""
    import torch

    from pyterrier_rescale import Splade, train

    record = settings["records"].get(system)
    backbone = settings["backbones"][record["backbone"] if record else system.partition("-")[0]]["model"]
    data = triples if record is None else record_rows(record, triples, folder.with_name("scored"))
    train(backbone, data, folder, config=train_config(settings, system), recipe=None)
    encoding = settings["encoding"]
    dtype = encoding["cuda_dtype"] if torch.cuda.is_available() else None
    return Splade(str(folder), batch_size=encoding["batch_size"], dtype=dtype)


def record_rows(record: dict[str, Any], triples: Path, folder: Path) -> Any:
    """The first triples, with as many negatives as the record's recipe uses, and its teacher's scores."""
    from pyterrier_rescale.training import score
    from pyterrier_rescale.training.loading import load_rows
    from pyterrier_rescale.training.negatives import mine_negatives

    with triples.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, record["rows"])]
    more = record["negatives"] - 1  # a triple has one
    if record["teacher"] is not None:
        return score(rows, record["teacher"], folder, negatives=more, retriever=record["retriever"])
    return mine_negatives(load_rows(rows), more, retriever=record["retriever"])


# Step 3: encode, index, retrieve, evaluate


def evaluate(settings: dict[str, Any], system: str, splade: Splade, folder: Path, engine: str, keep: bool) -> None:
    """Score all tasks, collection by collection; an index is removed once its tasks are scored, unless kept."""
    (folder / "results").mkdir(exist_ok=True)
    for name in dict.fromkeys(task["collection"] for task in settings["tasks"]):
        tasks = [task for task in settings["tasks"] if task["collection"] == name]
        tasks = [task for task in tasks if not result_file(folder, task).exists()]
        facts_file = folder / "results" / f"{_slug(name)}.json"
        if not tasks or (facts_file.exists() and not json.loads(facts_file.read_text())["indexed"]):
            continue
        print(f"{system}: {name}", flush=True)
        _evaluate_collection(settings, system, splade, folder, name, tasks, facts_file, engine)
        if not keep:
            shutil.rmtree(folder / "indexes" / _slug(name), ignore_errors=True)


def _evaluate_collection(
    settings: dict[str, Any], system: str, splade: Splade, folder: Path, name: str, tasks: list[dict[str, Any]],
    facts_file: Path, engine: str,
) -> None:  # fmt: skip
    import pyterrier as pt

    from pyterrier_rescale import load_collection, open_index

    collection = load_collection(name)
    density = _terms_per_text(splade, [doc["text"] for doc in islice(collection.corpus(), SAMPLE)])
    limit = settings["encoding"]["max_terms_per_document"]
    if not 0 < density <= limit:
        print(f"{system}: {name}: not indexed, {density:.0f} active terms per document (must be 1 to {limit})")
        _write(facts_file, json.dumps({"indexed": False, "terms_per_document": density}))
        return
    index = open_index(folder / "indexes" / _slug(name), engine)
    if not index.built:
        pipeline = splade.doc_encoder() >> index.indexer(verbose=True)
        pipeline.index(collection.corpus(), batch_size=WINDOW)
    retrieve = splade.query_encoder() >> index.retriever(settings["num_results"])
    if name.startswith("irds:beir/"):
        retrieve = retrieve >> pt.apply.generic(without_query_itself)
    stats = index.stats()
    topics = {task["name"]: _topics(collection, task) for task in settings["tasks"] if task["collection"] == name}
    facts = {
        "indexed": True, "engine": engine, "documents": stats["documents"],
        "terms_per_document": stats["postings"] / stats["documents"], "index_mb": index.size_bytes / 1e6,
        "terms_per_query": {task: _terms_per_text(splade, asked["query"].tolist()) for task, asked in topics.items()},
    }  # fmt: skip
    _write(facts_file, json.dumps(facts, indent=1))
    for task in tasks:
        values = pt.Experiment(
            [retrieve], topics[task["name"]], collection.qrels(task["split"]), [_measure(task)], names=[system],
            filter_by_qrels=True, perquery=True, verbose=True,
        )  # fmt: skip
        _write(result_file(folder, task), values.assign(measure=task["measure"]).to_csv(index=False))


def without_query_itself(results: pd.DataFrame) -> pd.DataFrame:
    """Results without the document that has the query's own id, as BEIR evaluates (ArguAna's queries are documents)."""
    return results[results["qid"] != results["docno"]]


def _topics(collection: Any, task: dict[str, Any]) -> pd.DataFrame:
    """The split's topics; ``query_field`` says which of several fields BEIR calls the query."""
    if "query_field" not in task:
        return collection.topics(task["split"])
    import pyterrier as pt

    return pt.get_dataset(task["collection"]).get_topics(task["query_field"])


def _measure(task: dict[str, Any]) -> Any:
    import ir_measures

    return ir_measures.parse_measure(task["measure"])


def _terms_per_text(splade: Splade, texts: list[str]) -> float:
    return splade.encode_docs(texts).nnz / max(1, len(texts))


def result_file(folder: Path, task: dict[str, Any]) -> Path:
    """Values per query of a task."""
    return folder / "results" / f"{_slug(task['name'])}.csv"


# Step 4: the table


def collect(settings: dict[str, Any], work: Path) -> pd.DataFrame:
    """A row per finished system and task, with p-values against the raw twin (paired t-test, Holm within a task)."""
    import pandas as pd

    from pyterrier_rescale.evaluation.experiment import holm_against_twins

    rows = []
    for task in settings["tasks"]:
        files = {name: result_file(work / name, task) for name in system_names(settings)}
        found = {n: pd.read_csv(f, dtype={"qid": str}).assign(name=n) for n, f in files.items() if f.exists()}
        twins = {name: f"{name.partition('-')[0]}-raw" for name in found}
        twins = {name: twin for name, twin in twins.items() if name != twin and twin in found}
        p_values = holm_against_twins(pd.concat(found.values()), twins, [task["measure"]]) if twins else {}
        for name, values in found.items():
            facts = json.loads((work / name / "results" / f"{_slug(task['collection'])}.json").read_text())
            rows.append(
                {
                    "system": name, "task": task["name"], "measure": task["measure"], "queries": len(values),
                    "value": values["value"].mean(), "p": p_values.get((name, task["measure"])),
                    "terms_per_document": facts["terms_per_document"],
                    "terms_per_query": facts["terms_per_query"][task["name"]],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def write_tables(settings: dict[str, Any], work: Path) -> str:
    """Write ``results.csv`` and ``results.md``; returns the latter."""
    results = collect(settings, work)
    if results.empty:
        return "no system has been scored yet"
    _write(work / "results.csv", results.to_csv(index=False))
    values = results.pivot(index="system", columns="task", values="value")
    values = values.reindex([name for name in system_names(settings) if name in values.index])
    values = values.reindex(columns=[task["name"] for task in settings["tasks"]])
    beir = [task["name"] for task in settings["tasks"] if task["collection"].startswith("irds:beir/")]
    marco = results[results["task"] == settings["tasks"][0]["name"]].set_index("system")
    headline = values[[name for name in values.columns if name not in beir]].copy()
    headline[f"BEIR-{len(beir)}"] = values[beir].mean(axis=1, skipna=False)
    headline["terms/query"] = marco["terms_per_query"].round()
    headline["terms/doc"] = marco["terms_per_document"].round()
    text = f"RR@10 on MS MARCO dev, nDCG@10 elsewhere.\n\n{_markdown(headline)}\n\n{_markdown(values[beir])}\n"
    _write(work / "results.md", text)
    return text


def _markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; a value that is not there stays empty."""

    def cell(value: float, name: str) -> str:
        return "" if value != value else f"{value:,.0f}" if name.startswith("terms/") else f"{value:.3f}"

    lines = ["| " + " | ".join(["system", *frame.columns]) + " |", "|---" + "|---:" * len(frame.columns) + "|"]
    for name, row in frame.iterrows():
        lines.append("| " + " | ".join([str(name), *(cell(row[c], c) for c in frame.columns)]) + " |")
    return "\n".join(lines)


# The whole


def run(systems: list[str], work: Path, *, dry_run: bool = False, engine: str = "pisa", keep: bool = False) -> str:
    """Every step of the systems, in turn; returns the table.

    Raises:
        ValueError: for a name that is no system.
    """
    settings = load_settings()
    unknown = [name for name in systems if name not in system_names(settings)]
    if unknown:
        raise ValueError(f"no system is called {', '.join(unknown)}; there are {', '.join(system_names(settings))}")
    work.mkdir(parents=True, exist_ok=True)
    with _data(settings, work, dry_run):
        triples = write_triples(settings, work / "triples.jsonl")
        for system in systems:
            folder = work / system
            print(f"{system}: training", flush=True)
            splade = trained_encoder(settings, system, triples, folder / "encoder")
            evaluate(settings, system, splade, folder, engine, keep)
    return write_tables(settings, work)


def _data(settings: dict[str, Any], work: Path, dry_run: bool) -> AbstractContextManager:
    """Nothing for a real run; for a dry run, stand-ins behind the same names."""
    marker = work / ".dry-run"
    if not dry_run:
        if marker.exists():
            raise ValueError(f"{str(work)!r} holds a dry run: choose another folder with --work")
        return nullcontext()
    if not marker.exists() and any(work.iterdir()):
        raise ValueError(f"{str(work)!r} holds something else than a dry run: choose another folder with --work")
    marker.touch()
    os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported
    import stand_ins

    for training in (settings["training"], settings["record_training"]):
        training.update(settings["dry_run"]["training"])
    for record in settings["records"].values():
        record["rows"] = settings["dry_run"]["rows"]
    return stand_ins.installed(settings, work / "stand-ins")


def _slug(name: str) -> str:
    from pyterrier_rescale.indexing.build import slug

    return slug(name)


def _write(path: Path, text: str) -> None:
    """Write beside, then rename: a result that is there is whole."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="Example: python experiments/paper/run.py modernbert-k16"
    )
    parser.add_argument("systems", nargs="*", help='names, or "all"; with none, the table of what is finished')
    parser.add_argument("--work", type=Path, help="folder of everything [runs/paper, or runs/paper-dry-run]")
    parser.add_argument("--engine", default="pisa", help="pisa, terrier or exact [pisa]")
    parser.add_argument("--dry-run", action="store_true", help="tiny stand-ins for models and data, offline")
    parser.add_argument("--keep-indexes", action="store_true", help="do not remove an index once it is scored")
    parser.add_argument("--list", action="store_true", help="the systems, with estimated GPU hours and disk")
    options = parser.parse_args(arguments)
    settings = load_settings()
    if options.list:
        from estimates import markdown

        print(markdown(settings))
        return
    work = options.work or Path("runs/paper-dry-run" if options.dry_run else "runs/paper")
    systems = system_names(settings) if options.systems == ["all"] else options.systems
    try:
        print(run(systems, work, dry_run=options.dry_run, engine=options.engine, keep=options.keep_indexes))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"run.py: error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
