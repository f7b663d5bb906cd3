"""nDCG@10 on a dev split while training: exact scores, judged by ir-measures."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ..collections import load_collection
from ..encoding.text_encoder import TextEncoder
from ..encoding.texts import check_texts
from ..indexing.own_documents import own_documents
from .model import SparseHead
from .rows import packed

MEASURE = "nDCG@10"
_DEPTH = 10


class DevSet:
    """Documents, topics and judgements that a run is measured on.

    Judgements of other topics do not count; a topic that is a document does not find itself.

    Args:
        dev: a collection with a ``dev`` split, or ``(documents, topics, qrels)`` as ``load_collection`` takes them.

    Raises:
        TypeError, ValueError: if something is missing or given twice, or no topic has a relevant document among these.
    """

    def __init__(self, dev: Any) -> None:
        if isinstance(dev, (tuple, list)) and len(dev) == 3:
            dev = load_collection(documents=dev[0], topics=dev[1], qrels={"dev": dev[2]})
        if not hasattr(dev, "corpus") or not hasattr(dev, "topics"):
            raise TypeError(
                "dev must be a collection with a dev split or a tuple (documents, topics, qrels), got "
                f"{type(dev).__name__}"
            )
        documents = list(dev.corpus())
        topics, qrels = dev.topics("dev"), dev.qrels("dev")
        self.docnos, self.qids = [one["docno"] for one in documents], topics["qid"].tolist()
        self.own = {qid: self.docnos.index(qid) for qid in own_documents(topics, documents)}
        self.texts = check_texts([one["text"] for one in documents], "dev document {1}", self.docnos)
        self.queries = check_texts(topics["query"], "dev topic {1}", self.qids)
        self.qrels = qrels[qrels["qid"].isin(self.qids)].rename(
            columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"}
        )[["query_id", "doc_id", "relevance"]]
        found = self.qrels["doc_id"].isin(self.docnos) & (self.qrels["relevance"] > 0)
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

    def score(self, module: SparseHead) -> float:
        """nDCG@10 of the module as it is now."""
        import ir_measures

        weight = module.head.weight
        original = weight.data
        if module.log_k is not None:  # divided into W for a while; afterwards W is bit for bit what it was
            weight.data = original / torch.exp(module.log_k.detach()).to(original.dtype)
        try:
            encoder = TextEncoder(module.mlm, module.tokenizer, module.described(), device=weight.device)
            documents, queries = encoder.encode(self.texts), encoder.of_queries().encode(self.queries)
        finally:
            weight.data = original
        run: dict[str, dict[str, float]] = {}
        depth = min(_DEPTH, len(self.docnos))
        for number, qid in enumerate(self.qids):
            scores = (queries[number] @ documents.T).toarray()[0]
            if qid in self.own:
                scores[self.own[qid]] = 0
            best = np.argpartition(-scores, depth - 1)[:depth]
            run[qid] = {self.docnos[place]: float(scores[place]) for place in best if scores[place] > 0}
        measure = ir_measures.parse_measure(MEASURE)
        return float(ir_measures.calc_aggregate([measure], self.qrels, run)[measure])
