"""nDCG@10 on a dev split while training: exact scores, judged by ir-measures."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.documents import as_documents
from .._utils.durable import put_in_place
from .._utils.text_lines import has_surrogates
from ..encoding.text_encoder import TextEncoder
from .config import TrainConfig
from .data.ids import identifier
from .data.rows import packed
from .model import SparseHead
from .monitor import Log

if TYPE_CHECKING:
    import pandas as pd

MEASURE = "nDCG@10"
_DEPTH = 10


class DevSet:
    """Documents, topics and judgements that a run is measured on.

    Args:
        dev: a collection with a ``dev`` split, or ``(documents, topics, qrels)``: dicts or a frame with docno and
            text; frames with qid, query and with qid, docno, label.

    Raises:
        TypeError, ValueError: if something is missing or empty, a text is no text, or no topic has a relevant document
            among these.
    """

    def __init__(self, dev: Any) -> None:
        if hasattr(dev, "corpus") and hasattr(dev, "topics"):
            dev = (dev.corpus(), dev.topics("dev"), dev.qrels("dev"))
        if not isinstance(dev, (tuple, list)) or len(dev) != 3:
            raise TypeError(
                "dev must be a collection with a dev split or a tuple (documents, topics, qrels), got "
                f"{type(dev).__name__}"
            )
        documents, topics, qrels = dev
        self.docnos, self.texts = _documents(documents)
        self.qids = [_known(qid, "topics", "qid") for qid in _column(topics, "qid", "topics")]
        self.queries = list(_column(topics, "query", "topics"))
        self.qrels = _qrels(qrels)
        if not self.docnos or not self.queries or not len(self.qrels):
            raise ValueError("dev must hold at least one document, one topic and one judgement")
        for qid, query in zip(self.qids, self.queries, strict=True):
            _check_text("topic", qid, query)
        relevant = self.qrels[self.qrels["relevance"] > 0]
        if not (relevant["query_id"].isin(set(self.qids)) & relevant["doc_id"].isin(set(self.docnos))).any():
            first = f"{relevant['query_id'].iloc[0]!r}, {relevant['doc_id'].iloc[0]!r}" if len(relevant) else "none"
            raise ValueError(
                "dev has no topic with a relevant document among its documents, so every score would be 0: the first "
                f"relevant pair is {first}, the first topic {self.qids[0]!r}, the first document {self.docnos[0]!r}"
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

    def score(self, module: SparseHead, *, max_length: int, query_max_length: int) -> float:
        """nDCG@10 of the module as it is now."""
        import ir_measures

        device = module.head.weight.device
        with _folded(module):
            side = dataclasses.replace(module.query_side(), max_length=query_max_length)
            description = module.description.replace(max_length=max_length, queries=side)
            encoder = TextEncoder(module.mlm, module.tokenizer, description, device=device)
            documents = encoder.encode(self.texts)
            queries = encoder.of_queries().encode(self.queries)
        run = list(self._run(queries, documents))
        measure = ir_measures.parse_measure(MEASURE)
        return float(ir_measures.calc_aggregate([measure], self.qrels, run)[measure])

    def _run(self, queries: Any, documents: Any) -> Iterator[Any]:
        """The ten best documents of each query, ties broken by position."""
        import ir_measures

        for start in range(0, queries.shape[0], 256):
            scores = (queries[start : start + 256] @ documents.T).toarray()
            for qid, row in zip(self.qids[start : start + 256], scores, strict=True):
                depth = min(_DEPTH, len(row))
                best = np.argpartition(-row, depth - 1)[:depth]
                for place in best:
                    if row[place] > 0:
                        yield ir_measures.ScoredDoc(qid, self.docnos[place], float(row[place]))


def _documents(documents: Any) -> tuple[list[str], list[str]]:
    docnos, texts = [], []
    for document in as_documents(documents):
        if "docno" not in document or "text" not in document:
            raise ValueError(f"dev documents must have docno and text, got {', '.join(map(str, document))}")
        docnos.append(_known(document["docno"], "documents", "docno"))
        title, text = document.get("title"), document["text"]
        _check_text("document", docnos[-1], text)
        texts.append(f"{title} {text}" if isinstance(title, str) and title and not text.startswith(title) else text)
    return docnos, texts


def _column(frame: pd.DataFrame, name: str, what: str) -> Iterable[Any]:
    if name not in getattr(frame, "columns", ()):
        raise ValueError(f"dev {what} must be a frame with a column {name!r}")
    return frame[name]


def _qrels(frame: pd.DataFrame) -> Any:
    import pandas as pd

    qids, docnos, labels = (_column(frame, name, "qrels") for name in ("qid", "docno", "label"))
    return pd.DataFrame({
        "query_id": [_known(qid, "qrels", "qid") for qid in qids],
        "doc_id": [_known(docno, "qrels", "docno") for docno in docnos],
        "relevance": labels.astype(int).tolist(),
    })


def _known(value: Any, what: str, name: str) -> str:
    found = identifier(value)
    if found is None:
        raise ValueError(f"dev {what} must each have a {name}, got {value!r}")
    return found


def _check_text(what: str, name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"dev: the text of {what} {name!r} must be a string, got {text!r:.80}")
    if has_surrogates(text):
        raise ValueError(f"dev: the text of {what} {name!r} holds a lone surrogate, half of a character")


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


class Best:
    """The best state so far by a score on a dev split, in one file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score, self.step = float("-inf"), 0
        if path.exists():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            self.score, self.step = kept["score"], kept["step"]

    def offer(self, score: float, step: int, state: dict[str, torch.Tensor]) -> bool:
        """Keep the state if its score is higher than all before."""
        if score <= self.score:
            return False
        self.score, self.step = score, step
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        torch.save({"score": score, "step": step, "state": state}, beside)
        put_in_place(beside, self.path)
        return True

    def state(self) -> dict[str, torch.Tensor] | None:
        """The state kept, or ``None``."""
        if not self.path.exists():
            return None
        return torch.load(self.path, map_location="cpu", weights_only=True)["state"]


class DevWatch:
    """Scores a run every few steps, writes ``dev.csv``, and keeps the best state."""

    def __init__(self, dev_set: DevSet, config: TrainConfig, folder: Path) -> None:
        self.set = dev_set
        self.every = config.eval_steps or 100
        self.lengths = {
            "max_length": config.max_length, "query_max_length": config.query_max_length or config.max_length
        }  # fmt: skip
        self.best = Best(folder / "checkpoints" / "best.pt")
        self.path = folder / "dev.csv"

    def due(self, step: int, last: int) -> bool:
        """Whether to score after a step."""
        return step % self.every == 0 or step == last

    def __call__(self, module: SparseHead, step: int) -> float:
        """Score, log, and keep the state if it is the best."""
        training = module.training
        score = self.set.score(module, **self.lengths)
        module.train(training)
        self.best.offer(score, step, module.state_dict())
        log = Log(self.path, ("step", MEASURE), step - 1)  # a resumed run repeats the steps after its checkpoint
        log.write({"step": step, MEASURE: f"{score:.6f}"})
        log.close()
        return score
