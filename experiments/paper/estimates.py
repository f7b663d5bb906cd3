"""GPU hours and disk of a system, computed from the settings and stated assumptions; nothing here was measured."""

from __future__ import annotations

from typing import Any

from pyterrier_rescale.training.recipes import RECIPES

SUSTAINED = 100e12  # floating-point operations/s in bf16: a third of an A100's peak (312e12)
TOKENS_PER_WORD = 1.35
TRAINING_TOKENS = {"documents": 200, "queries": 25}  # padded, per text: a batch is as long as its longest text
HOST_DOCUMENTS = 2_000  # documents/s of tokenising, weights to terms, and indexing, while the GPU waits
TERMS = 200  # active terms per document after training
INDEX_BYTES = 2.8  # per posting, of PISA's index (experiments/engines)
BUILDING_BYTES = 24.0  # per posting, at most, while it is built
TRIPLE_BYTES = 800  # query, positive and negative as JSON
DOWNLOADS_GB = 13.7  # sizes that ir_datasets states: MS MARCO 1.1, its triples 7.9, the 13 collections 4.7
UNPACKED = 2.5  # disk of ir_datasets with its document stores, in units of the downloads
HIDDEN = 768  # of all five backbones
GB = 1e9


def training_hours(backbone: dict[str, Any], training: dict[str, Any]) -> float:
    """6 operations per parameter (body and head) and padded token; the head's sparse backward pass takes less."""
    tokens = (2 * TRAINING_TOKENS["documents"] + TRAINING_TOKENS["queries"]) * training["batch_size"]
    return 6 * _parameters(backbone) * tokens * training["max_steps"] / SUSTAINED / 3600


def record_hours(settings: dict[str, Any], name: str, recipe: dict[str, Any]) -> tuple[float, float]:
    """(teacher's scoring, training) of a record: one pass over its rows where the recipe has no number of steps."""
    record = settings["records"][name]
    documents, batch = 1 + record["negatives"], recipe.get("batch_size", 32)
    tokens = documents * TRAINING_TOKENS["documents"] + TRAINING_TOKENS["queries"]
    steps = recipe.get("max_steps", record["rows"] // batch)
    trains = 6 * _parameters(settings["backbones"][record["backbone"]]) * tokens * batch * steps
    pairs = record["rows"] * documents * sum(TRAINING_TOKENS.values()) if record["teacher"] else 0
    return 2 * settings["teacher_parameters"] * pairs / SUSTAINED / 3600, trains / SUSTAINED / 3600


def encoding_hours(backbone: dict[str, Any], tasks: list[dict[str, Any]], max_length: int) -> tuple[float, float]:
    """(GPU at work, GPU waiting for the host), over the documents of all collections; queries do not count."""
    corpora = _corpora(tasks)
    tokens = sum(count * min(words * TOKENS_PER_WORD, max_length) for count, words in corpora)
    documents = sum(count for count, _ in corpora)
    return 2 * _parameters(backbone) * tokens / SUSTAINED / 3600, documents / HOST_DOCUMENTS / 3600


def shared_disk_gb(settings: dict[str, Any]) -> float:
    """What all systems use: the collections, and the training triples."""
    triples = settings["training"]["batch_size"] * settings["training"]["max_steps"] * TRIPLE_BYTES
    return DOWNLOADS_GB * UNPACKED + triples / GB


def system_disk_gb(backbone: dict[str, Any], tasks: list[dict[str, Any]]) -> tuple[float, float]:
    """(most at a time, what stays): the largest index in the making, or two checkpoints; then the encoder alone."""
    parameters = _parameters(backbone) + backbone["vocabulary"] * HIDDEN  # the head is untied from the embeddings
    largest = max(count for count, _ in _corpora(tasks))
    encoder = 4 * parameters / GB
    building = largest * TERMS * (BUILDING_BYTES + INDEX_BYTES) / GB
    return encoder + max(building, 2 * 3 * encoder), encoder


def markdown(settings: dict[str, Any]) -> str:
    """A table, a row per backbone (its rescalings cost the same), and the sum over all systems."""
    lines = [
        "| backbone | systems | training h | encoding h | waiting h | GPU h per system | disk GB | GB that stay |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    hours, kept, most = 0.0, 0.0, 0.0
    for name, backbone in settings["backbones"].items():
        systems = [f"{name}-{rescaling}" for rescaling in settings["rescalings"]]
        trains = training_hours(backbone, settings["training"])
        encodes, waits = encoding_hours(backbone, settings["tasks"], settings["training"]["max_length"])
        peak, stays = system_disk_gb(backbone, settings["tasks"])
        total = trains + encodes + waits
        numbers = " | ".join(f"{value:.1f}" for value in (trains, encodes, waits, total, peak, stays))
        lines.append(f"| {name} | {', '.join(systems)} | {numbers} |")
        hours, kept, most = hours + total * len(systems), kept + stays * len(systems), max(most, peak)
    shared = shared_disk_gb(settings)
    lines.append(
        f"\nAll systems: {hours:.0f} GPU hours; disk: {shared:.0f} GB that all share, {kept:.0f} GB of encoders, "
        f"{most:.0f} GB while a system runs."
    )
    lines += ["", "| record | published | backbone | data | scoring h | training h | not part of it here |",
              "|---|---|---|---|---:|---:|---|"]  # fmt: skip
    for name, record in settings["records"].items():
        recipe = RECIPES[name]
        scores, trains = record_hours(settings, name, recipe.options)
        data = f"{record['rows']:,} of the triples, negatives a query: {record['negatives']}, by {record['retriever']}"
        data += f", scores of {record['teacher']}" if record["teacher"] else ""
        row = [name, record["published"], record["backbone"], data, f"{scores:.1f}", f"{trains:.1f}", recipe.missing]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _parameters(backbone: dict[str, Any]) -> float:
    """Body, without embeddings, and head."""
    return backbone["body_parameters"] + backbone["vocabulary"] * HIDDEN


def _corpora(tasks: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Documents and mean words of every collection, once."""
    return list({task["collection"]: (task["documents"], task["words"]) for task in tasks}.values())
