"""What the pages' code runs with here: tiny backbones and a tiny collection under the names that the pages use.

Folders of the hub's names stand in the working folder, where they win over the hub; `load_collection` gives one tiny
collection for every name; training takes two steps, into folders that the page's next example may use again; encoding
takes no second process.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import tiny

import pyterrier_rescale
from pyterrier_rescale.collections import BeirCollection, write_beir

BACKBONES = {"answerdotai/ModernBERT-base": "modernbert", "google-bert/bert-base-uncased": "bert"}
_DOCS = 60


def write_collection(folder: Path) -> BeirCollection:
    """Sixty documents with titles, ten topics, qrels of test and train."""
    words = [text.split() for text in tiny.TEXTS]
    texts = [" ".join(words[i % len(words)] + words[(i * 7 + 3) % len(words)]) for i in range(_DOCS)]
    titles, topics = ([" ".join(text.split()[:n]) for text in texts] for n in (3, 5))
    documents = [{"docno": f"d{i}", "title": titles[i], "text": text} for i, text in enumerate(texts)]
    qrels = [{"qid": f"q{i}", "docno": f"d{i}", "label": 1} for i in range(_DOCS)]
    return write_beir(pyterrier_rescale.load_collection(
        documents=documents, topics=[{"qid": f"q{i}", "query": topic} for i, topic in enumerate(topics)],
        qrels={"train": qrels[10:], "test": qrels[:10]},
    ), folder)  # fmt: skip


def prepare(folder: Path, patch) -> dict:
    """Fill the working folder, replace what would take long, and return the names that a page may use unsaid."""
    patch.chdir(folder)
    for name, family in BACKBONES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        tiny.save(family, folder / name)
    tiny.save("bert", folder / "my-splade")  # until a page trains its own
    collection = write_collection(folder / "tiny-collection")
    rows = {
        "documents": ["docno,text", *(f"own{i},{json.dumps(text)}" for i, text in enumerate(tiny.TEXTS))],
        "topics": ["qid,query", *(f"q{i},{text.split()[1]}" for i, text in enumerate(tiny.TEXTS))],
        "qrels": ["qid,docno,label", *(f"q{i},own{i},1" for i in range(len(tiny.TEXTS)))],
    }
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    with gzip.open(folder / "qidpidtriples.train.tsv.gz", "wt") as out:
        out.writelines(f"q{i}\td{i}\td{(i + 5) % _DOCS}\n" for i in range(10, 40))
    own = pyterrier_rescale.load_collection
    patch.setattr(pyterrier_rescale, "load_collection", lambda name=None, **data: own(**data) if data else collection)
    patch.setattr(pyterrier_rescale, "small_backbone", lambda family, texts, **_: str(folder / next(iter(BACKBONES))))
    real = pyterrier_rescale.train

    def train(*args, **options):
        if not Path(args[2], "train_inputs.json").exists():
            shutil.rmtree(args[2], ignore_errors=True)  # the stand-in of a page that trains none
        options |= {"max_steps": 2, "batch_size": 2, "max_length": 16, "monitor": False, "ramp_steps": 50}
        return real(*args, **options, verbose=False, overwrite=True)

    patch.setattr(pyterrier_rescale, "train", train)
    encode = pyterrier_rescale.encode
    patch.setattr(pyterrier_rescale, "encode", lambda *args, workers=1: encode(*args, verbose=False))
    documents, topics = list(collection.corpus()), collection.topics("train")
    rows = [(f"q{i}", f"d{i}", f"d{(i + 5) % _DOCS}") for i in range(10, 40)]
    texts = [document["text"] for document in documents]
    triples = [(text[:20], text, texts[i - 1]) for i, text in enumerate(texts)]
    return {"documents": documents, "topics": topics, "docpairs": rows, "triples": triples}
