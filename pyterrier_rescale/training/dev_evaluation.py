"""nDCG@10 on a dev split while training: exact scores, judged by ir-measures."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from ..collections import load_collection
from ..encoding.text_encoder import TextEncoder
from ..encoding.texts import check_texts
from ..heads.fingerprint import settings_fingerprint
from ..indexing.own_documents import own_documents
from .model import SparseHead

MEASURE = "nDCG@10"
_DEPTH = 10


class DevSet:
    """A collection's dev split, or ``(documents, topics, qrels)``; a topic that is a document does not find itself."""

    def __init__(self, dev: Any) -> None:
        if isinstance(dev, (tuple, list)) and len(dev) == 3:
            dev = load_collection(documents=dev[0], topics=dev[1], qrels={"dev": dev[2]})
        dev = load_collection(dev) if isinstance(dev, (str, os.PathLike)) else dev
        if not hasattr(dev, "corpus") or not hasattr(dev, "topics"):
            raise TypeError(f"dev must be a collection or (documents, topics, qrels), got {type(dev).__name__}")
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
                f"topic is {self.qids[:1]}, the first document {self.docnos[:1]}"
            )
        self.fingerprint = settings_fingerprint(
            [self.docnos, self.texts, self.qids, self.queries, self.qrels.to_csv(index=False)]
        )

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
