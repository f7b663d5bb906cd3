"""Collections of the tiny texts, for comparisons."""

from __future__ import annotations

import pandas as pd
import tiny


class Sentences:
    """Find a text by its beginning."""

    def __init__(self, texts=tuple(tiny.TEXTS), *, name="sentences", begin=20, label=1, pairs=None):
        self.texts, self.name, self.begin, self.label, self.pairs = texts, name, begin, label, pairs

    def corpus(self):
        return ({"docno": f"d{i}", "text": text, "title": ""} for i, text in enumerate(self.texts))

    def topics(self, split="test"):
        return pd.DataFrame({
            "qid": [f"q{i}" for i in range(len(self.texts))], "query": [text[: self.begin] for text in self.texts]
        })  # fmt: skip

    def qrels(self, split="test"):
        ids = range(len(self.texts))
        return pd.DataFrame({"qid": [f"q{i}" for i in ids], "docno": [f"d{i}" for i in ids], "label": self.label})

    def train_pairs(self, min_label=1):
        return self.pairs or [(text[:10], text[10:]) for text in tiny.TEXTS]
