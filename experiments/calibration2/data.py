"""Collections, held-out pairs, and backbones of the study."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_rescale._utils.files import cache_dir

TRAINED_ON = ("scifact", "vaswani", "medquad")
UNSEEN = ("nfcorpus", "cranfield")
HELD_OUT_SHARE, HELD_OUT_MOST = 0.2, 300
#: Documents of the corpus among which held-out queries look for theirs.
HELD_OUT_DOCUMENTS = 2000
LONG = {"family": "modernbert", "steps": 8000, "batch_size": 24, "max_length": 96}
#: Settings of small_backbone; the share of chosen tokens that stay as they are is 1 - masked - random.
BACKBONES: dict[str, dict[str, Any]] = {"minilm": {"family": "minilm"}}
for _kept in (0, 10, 25):
    _shares = {"masked": round(0.95 - _kept / 100, 2), "random": 0.05}
    BACKBONES[f"modernbert-3x128-kept{_kept}"] = {**LONG, "layers": 3, "hidden": 128, **_shares}
    BACKBONES[f"modernbert-4x256-kept{_kept}"] = {**LONG, "layers": 4, "hidden": 256, **_shares}
for _name, _lowercase in (("cased", False), ("lowercased", True)):
    BACKBONES[f"modernbert-{_name}"] = {**LONG, "layers": 3, "hidden": 128, "lowercase": _lowercase}
#: Of these there is one body, pretrained once; seeds of their runs do not cover it.
ONE_BODY = ("minilm", "modernbert-cased", "modernbert-lowercased")
#: In a dry run every backbone is this one.
TINY = {"family": "bert", "steps": 20, "vocab_size": 400, "layers": 1, "hidden": 32, "batch_size": 4, "max_length": 32}


@dataclass(frozen=True, eq=False)
class Topics:
    """What is scored: queries, judgements, and the documents that they are about."""

    qids: list[str]
    queries: list[str]
    qrels: pd.DataFrame
    docnos: np.ndarray
    texts: list[str]

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of queries and documents."""
        parts = (self.qids, self.queries, self.docnos.tolist(), self.texts)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Study:
    """Folders of the collections and caches; everything is read once per process.

    Args:
        collections: a folder of BEIR folders.
        cache_folder: of backbones and BM25's scores; default: the package's own.
        dry: whether every backbone is ``TINY``.
        device: that models run on.
        pretrained: folders of backbones that were pretrained elsewhere, by name.
    """

    def __init__(
        self,
        collections: Path,
        cache_folder: Path | None = None,
        dry: bool = False,
        device: str = "cpu",
        pretrained: dict[str, Path] | None = None,
    ) -> None:
        self.collections, self.dry, self.device = collections, dry, device
        self.cache_folder = cache_folder or cache_dir("backbones")
        self.pretrained = pretrained or {}

    @cache  # noqa: B019  (one study per process)
    def collection(self, name: str) -> Any:
        """A collection by name."""
        from pyterrier_rescale import load_collection

        return load_collection(self.collections / name)

    @cache  # noqa: B019
    def corpus(self, name: str) -> tuple[np.ndarray, list[str]]:
        """docnos and texts."""
        documents = list(self.collection(name).corpus())
        return np.array([d["docno"] for d in documents]), [d["text"] for d in documents]

    @cache  # noqa: B019
    def texts(self) -> list[str]:
        """What heads and backbones are pretrained on: never a text of the unseen collections."""
        return [text for name in ("vaswani", "scifact", "medquad") for text in self.corpus(name)[1]]

    def backbone(self, name: str, seed: int = 0) -> Path:
        """The folder of a backbone, pretrained where it is not in the cache."""
        from pyterrier_rescale import small_backbone

        if name in self.pretrained:
            return self.pretrained[name]
        settings = dict(TINY if self.dry else BACKBONES[name])
        seed = 0 if name in ONE_BODY else seed
        return small_backbone(settings.pop("family"), self.texts(), self.cache_folder, seed=seed, **settings)

    @cache  # noqa: B019
    def pairs(self, name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Pairs that are trained on, and those held out: the first by a hash of their queries."""
        pairs = [(query, text) for query, text, *_ in self.collection(name).train_pairs()]
        queries = sorted({query for query, _ in pairs}, key=lambda q: hashlib.sha256(q.encode()).hexdigest())
        held = set(queries[: min(HELD_OUT_MOST, max(1, round(HELD_OUT_SHARE * len(queries))))])
        return [p for p in pairs if p[0] not in held], [p for p in pairs if p[0] in held]

    @cache  # noqa: B019
    def held_out(self, name: str) -> Topics:
        """The held-out queries over a part of the corpus; relevant is what they are paired with.

        Where queries are the titles of documents, bodies are searched: with its title every document would be found.
        """
        held = self.pairs(name)[1]
        docnos, texts = self.corpus(name)
        if not {text for _, text in held} <= set(texts):
            texts = [document["body"] for document in self.collection(name).corpus()]
        number = {text: docno for docno, text in zip(docnos, texts, strict=True)}
        pairs = [(query, number[text]) for query, text in held]
        queries = list(dict.fromkeys(query for query, _ in pairs))
        qid = {query: f"h{i}" for i, query in enumerate(queries)}
        qrels = pd.DataFrame([{"qid": qid[q], "docno": d, "label": 1} for q, d in pairs]).drop_duplicates()
        kept = np.isin(docnos, qrels["docno"])
        others = np.random.default_rng(0).permutation(np.flatnonzero(~kept))[: max(0, HELD_OUT_DOCUMENTS - kept.sum())]
        kept[others] = True
        texts = [text for text, keep in zip(texts, kept, strict=True) if keep]
        return Topics([qid[q] for q in queries], queries, qrels, docnos[kept], texts)

    @cache  # noqa: B019
    def test(self, name: str) -> Topics:
        """The judged test topics."""
        collection = self.collection(name)
        topics, qrels = collection.topics("test"), collection.qrels("test")
        topics = topics[topics["qid"].isin(set(qrels["qid"]))].sort_values("qid")
        return Topics(topics["qid"].tolist(), topics["query"].tolist(), qrels, *self.corpus(name))
