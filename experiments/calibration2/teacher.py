"""The teacher of block 12: BM25 on word pieces plus MiniLM's cosine, for hard negatives that BM25 finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from data import Study
from step0 import MAX_LENGTH
from transformers import AutoModel, AutoTokenizer

from pyterrier_rescale import LexicalEncoder
from pyterrier_rescale.backbones import minilm_folder
from pyterrier_rescale.training import score

ROWS, NEGATIVES = 4000, 2
#: What a cosine of 1 is worth beside BM25's scores, which go up to some 30 here.
COSINE = 20.0


class Teacher(pt.Transformer):
    """BM25 + 20 cosines of MiniLM's sentence vectors; each text is encoded once."""

    def __init__(self, texts: list[str]) -> None:
        folder = minilm_folder()
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        self.bm25 = LexicalEncoder(self.tokenizer, idf_from=texts, weighting="bm25", max_length=MAX_LENGTH)
        self.known: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return "BM25 + 20 cosines of all-MiniLM-L6-v2"

    @torch.inference_mode()
    def vectors(self, texts: list[str]) -> np.ndarray:
        """Means over the tokens, of length 1, (len(texts), H)."""
        new = sorted({text for text in texts if text not in self.known}, key=len)
        for first in range(0, len(new), 64):
            part = new[first : first + 64]
            inputs = self.tokenizer(part, return_tensors="pt", padding=True, truncation=True, max_length=MAX_LENGTH)
            mask = inputs["attention_mask"][:, :, None]
            means = (self.model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
            self.known |= dict(zip(part, torch.nn.functional.normalize(means, dim=1).numpy(), strict=True))
        return np.stack([self.known[text] for text in texts])

    def transform(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Score each query with its text."""
        queries, texts = list(pairs["query"]), list(pairs["text"])
        cosines = (self.vectors(queries) * self.vectors(texts)).sum(axis=1)
        products = self.bm25.encode_queries(queries).multiply(self.bm25.encode_docs(texts)).sum(axis=1)
        return pairs.assign(score=np.asarray(products).ravel() + COSINE * cosines)


def scored_rows(study: Study, collection: str) -> Path:
    """The file of scored rows, made once."""
    folder = study.cache_folder / f"teacher-{collection}"
    pairs = study.pairs(collection)[0]
    rows = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[: 40 if study.dry else ROWS]]
    teacher = Teacher([document for _, document in pairs])
    return score(rows, teacher, folder, negatives=NEGATIVES, verbose=False)
