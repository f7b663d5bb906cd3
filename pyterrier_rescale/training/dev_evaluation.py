"""nDCG@10 on a dev split while training: exact scores, judged by ir-measures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..encoding.text_encoder import TextEncoder
from .loading import document_texts
from .model import SparseHead
from .rows import identifier, packed, whole_text

MEASURE = "nDCG@10"
_DEPTH = 10


class DevSet:
    """Documents, topics and judgements that a run is measured on; judgements of other topics do not count.

    Args:
        dev: a collection with a ``dev`` split, or ``(documents, topics, qrels)``: dicts or a frame with docno and
            text; frames with qid, query and with qid, docno, label.

    Raises:
        TypeError, ValueError: if something is missing or given twice, a text is no text, or no topic has a relevant
            document among these.
    """

    def __init__(self, dev: Any) -> None:
        import pandas as pd

        if hasattr(dev, "corpus") and hasattr(dev, "topics"):
            dev = (dev.corpus(), dev.topics("dev"), dev.qrels("dev"))
        if not isinstance(dev, (tuple, list)) or len(dev) != 3:
            raise TypeError(
                "dev must be a collection with a dev split or a tuple (documents, topics, qrels), got "
                f"{type(dev).__name__}"
            )
        documents, topics, qrels = dev
        for frame, what, needed in ((topics, "topics", ("qid", "query")), (qrels, "qrels", ("qid", "docno", "label"))):
            if not set(needed) <= set(getattr(frame, "columns", ())):
                raise ValueError(f"dev {what} must be a frame with columns {', '.join(needed)}")
        pairs = list(document_texts(documents))
        self.docnos, self.texts = [docno for docno, _ in pairs], [text for _, text in pairs]
        self.qids = [identifier(qid) for qid in topics["qid"]]
        self.queries = [whole_text(query, "a dev topic") for query in topics["query"]]
        asked = set(self.qids)
        self.qrels = pd.DataFrame({
            "query_id": [identifier(qid) for qid in qrels["qid"]],
            "doc_id": [identifier(docno) for docno in qrels["docno"]],
            "relevance": qrels["label"].astype(int).tolist(),
        }).loc[lambda judged: judged["query_id"].isin(asked)]
        for names, texts, what in ((self.docnos, self.texts, "documents"), (self.qids, self.queries, "topics")):
            if None in names or len(set(names)) < len(names):
                raise ValueError(f"dev {what} must each have an id of their own, which none does twice")
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"dev {what} must each have a text, a string")
        found = self.qrels["doc_id"].isin(set(self.docnos)) & (self.qrels["relevance"] > 0)
        if not found.any():
            raise ValueError(
                "dev has no topic with a relevant document among its documents, so every score would be 0: the first "
                f"of {len(self.qids)} topics is {self.qids[:1]}, of {len(self.docnos)} documents {self.docnos[:1]}"
            )

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of documents, topics and judgements."""
        digest = hashlib.blake2b(digest_size=8)
        for pair in (*zip(self.docnos, self.texts, strict=True), *zip(self.qids, self.queries, strict=True)):
            digest.update(packed(pair))
        for qid, docno, label in self.qrels.itertuples(index=False, name=None):
            digest.update(packed((qid, docno), (label,)))
        return digest.hexdigest()

    def score(self, module: SparseHead, *, max_length: int, query_max_length: int | None) -> float:
        """nDCG@10 of the module as it is now."""
        import ir_measures

        with _folded(module):
            by_document, by_query = (
                TextEncoder(
                    module.mlm, module.tokenizer, pooling=module.pooling, max_length=length,
                    device=module.head.weight.device, options=module.options,
                )
                for length in (max_length, query_max_length or max_length)
            )  # fmt: skip
            documents = by_document.encode(self.texts)
            queries = module.query_side().encoder(by_query).encode(self.queries)
        run = list(self._run(queries, documents))
        measure = ir_measures.parse_measure(MEASURE)
        return float(ir_measures.calc_aggregate([measure], self.qrels, run)[measure])

    def _run(self, queries: Any, documents: Any) -> Iterator[Any]:
        """The ten best documents of each query."""
        import ir_measures

        for start in range(0, queries.shape[0], 256):
            scores = (queries[start : start + 256] @ documents.T).toarray()
            for qid, row in zip(self.qids[start : start + 256], scores, strict=True):
                depth = min(_DEPTH, len(row))
                for place in np.argpartition(-row, depth - 1)[:depth]:
                    if row[place] > 0:
                        yield ir_measures.ScoredDoc(qid, self.docnos[place], float(row[place]))


@contextmanager
def _folded(module: SparseHead) -> Iterator[None]:
    """While open, a learned k is divided into W; afterwards W is bit for bit what it was."""
    if module.log_k is None:
        yield
        return
    weight = module.head.weight
    original = weight.data
    weight.data = original / torch.exp(module.log_k.detach()).to(original.dtype)
    try:
        yield
    finally:
        weight.data = original
