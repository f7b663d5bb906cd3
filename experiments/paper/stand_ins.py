"""Stand-ins for a dry run: docstrings behind the ids of ir_datasets, tiny random models behind the backbones' names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ir_datasets
from ir_datasets.datasets.base import Dataset
from ir_datasets.datasets.beir import BeirTitleDoc
from ir_datasets.formats import BaseDocPairs, BaseDocs, BaseQrels, BaseQueries, GenericDoc, GenericDocPair, TrecQrel

from pyterrier_rescale import load_collection
from pyterrier_rescale.backbones import BackboneSettings
from pyterrier_rescale.backbones.architectures import POSITIONS, build_model, train_tokenizer
from pyterrier_rescale.collections import BeirCollection, Collection, write_beir

TOPICS = 8  # per task
DOCUMENTS = 60  # per collection, at least
PAIRS = 100  # texts to train on
VOCABULARY, HIDDEN, LAYERS = 1_000, 64, 2


@contextmanager
def installed(settings: dict[str, Any], folder: Path) -> Iterator[None]:
    """Put models and data behind the names that the settings hold, in this process and until the block ends."""
    source = _source(folder / "docstrings", len(settings["tasks"]) * TOPICS)
    texts = [document["text"] for document in source.corpus()]
    for number, backbone in enumerate(settings["backbones"].values()):
        backbone["model"] = str(_model(backbone["family"], number, texts, folder))
    for record in settings["records"].values():
        record["teacher"] = record["teacher"] and settings["backbones"]["bert"]["model"]
    with mock.patch.dict(ir_datasets.registry._registered, _datasets(settings, source)):
        yield


def _source(folder: Path, topics: int) -> Collection:
    """A sample of the docstring collection, as a folder in BEIR's format."""
    if not folder.exists():
        write_beir(load_collection("docstrings").sample(topics + DOCUMENTS + PAIRS, topics), folder)
    return BeirCollection(folder)


def _model(family: str, seed: int, texts: list[str], folder: Path) -> Path:
    """A model of the family's class with random weights, and a tokenizer trained on the texts."""
    import torch

    folder = folder / f"{family}-{seed}"
    if (folder / "tokenizer.json").exists():
        return folder
    like = "bert" if family == "distilbert" else family
    sizes = BackboneSettings(like, vocab_size=VOCABULARY, hidden=HIDDEN, layers=LAYERS)
    tokenizer = train_tokenizer(sizes, texts)
    torch.manual_seed(seed)
    model = _distilbert(len(tokenizer)) if family == "distilbert" else build_model(sizes, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _distilbert(vocabulary: int) -> Any:
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=vocabulary, dim=HIDDEN, n_layers=LAYERS, n_heads=2, hidden_dim=2 * HIDDEN,
        max_position_embeddings=POSITIONS, pad_token_id=0,
    )  # fmt: skip
    return transformers.DistilBertForMaskedLM(config)


def _datasets(settings: dict[str, Any], source: Collection) -> dict[str, Dataset]:
    """A dataset for every id that the run asks for; document ids, topics and qrels are real ones of the docstrings."""
    documents = {document["docno"]: document["text"] for document in source.corpus()}
    topics = dict(source.topics().itertuples(index=False, name=None))
    relevant = dict(source.qrels()[["qid", "docno"]].itertuples(index=False, name=None))
    others = [docno for docno in documents if docno not in set(relevant.values())]
    qids = iter(topics)
    result: dict[str, Dataset] = {}
    for name in dict.fromkeys(task["collection"] for task in settings["tasks"]):
        top = name.removeprefix("irds:")
        tasks = {t["split"]: [next(qids) for _ in range(TOPICS)] for t in settings["tasks"] if t["collection"] == name}
        found = [relevant[qid] for own in tasks.values() for qid in own] + others[:DOCUMENTS]
        held = Documents(GenericDoc if top == "msmarco-passage" else BeirTitleDoc, {d: documents[d] for d in found})
        result[top] = Dataset(held)  # where a task's id is the collection's own, the task's dataset replaces it
        for split, own in tasks.items():
            dataset_id = f"{top}/{split}" if f"{top}/{split}" in set(ir_datasets.registry) else top
            kind = ir_datasets.load(dataset_id).queries_cls()
            queries = Queries(kind, {qid: topics[qid] for qid in own})
            result[dataset_id] = Dataset(held, queries, Qrels({qid: relevant[qid] for qid in own}))
    result[settings["triples"]] = _triples(others[DOCUMENTS:], documents)
    return result


def _triples(docnos: list[str], documents: dict[str, str]) -> Dataset:
    """Training triples: the first words of a text look for the whole; the next text is the negative."""
    queries = {f"train-{docno}": " ".join(documents[docno].split()[:8]) for docno in docnos}
    pairs = list(zip(queries, docnos, docnos[1:] + docnos[:1], strict=True))
    held = Documents(GenericDoc, {docno: documents[docno] for docno in docnos})
    return Dataset(held, Queries(ir_datasets.formats.GenericQuery, queries), DocPairs(pairs))


class Documents(BaseDocs):
    """Documents in memory, and their store."""

    def __init__(self, kind: type, texts: dict[str, str]) -> None:
        blank = [""] * (len(kind._fields) - 2)
        self.kind, self.held = kind, {docno: kind(docno, text, *blank) for docno, text in texts.items()}

    def docs_iter(self) -> Iterator[Any]:
        return iter(self.held.values())

    def docs_count(self) -> int:
        return len(self.held)

    def docs_cls(self) -> type:
        return self.kind

    def docs_store(self) -> Documents:
        return self

    def get_many(self, docnos: set[str]) -> dict[str, Any]:
        return {docno: self.held[docno] for docno in docnos}


class Queries(BaseQueries):
    """Queries of the class that the real dataset has; fields other than the text are blank."""

    def __init__(self, kind: type, texts: dict[str, str]) -> None:
        self.kind, self.texts = kind, texts

    def queries_iter(self) -> Iterator[Any]:
        for qid, text in self.texts.items():
            fields = {field: "" for field in self.kind._fields}
            yield self.kind(**{**fields, "query_id": qid, "text": text})

    def queries_cls(self) -> type:
        return self.kind


class Qrels(BaseQrels):
    """One relevant document per query."""

    def __init__(self, relevant: dict[str, str]) -> None:
        self.relevant = relevant

    def qrels_iter(self) -> Iterator[TrecQrel]:
        return (TrecQrel(qid, docno, 1, "0") for qid, docno in self.relevant.items())

    def qrels_cls(self) -> type:
        return TrecQrel


class DocPairs(BaseDocPairs):
    """Triples of ids."""

    def __init__(self, triples: list[tuple[str, str, str]]) -> None:
        self.triples = triples

    def docpairs_iter(self) -> Iterator[GenericDocPair]:
        return (GenericDocPair(*triple) for triple in self.triples)
