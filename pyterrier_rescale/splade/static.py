"""Static queries of a folder that we saved, without its model: neither torch nor transformers is loaded."""

from __future__ import annotations

import os
from typing import Any

import pyterrier as pt

from .._utils.files import expand
from ..encoding.lexical import StaticEncoder
from ..encoding.saved_folder import describe
from ..encoding.terms import TermMap, to_toks
from ..encoding.texts import check_texts
from ..heads.hub_files import read_json


def static_queries(path: str | os.PathLike[str]) -> pt.Transformer | None:
    """A stage that gives what ``Splade(path).query_encoder()`` gives; ``None`` where this needs the model."""
    config = read_json(path, "config_sentence_transformers.json") if expand(path).is_dir() else None
    if not config or config.get("static_tokenizer") != "documents":
        return None
    how = describe(path)
    side = how.queries
    if side.times_model or how.lowercase or how.fold:
        return None
    tokenizer = _Tokenizer(path)
    encoder = StaticEncoder(tokenizer, side.weights, side.max_length or how.max_length)
    terms = TermMap(tokenizer, len(side.weights))

    def encode(queries: Any) -> Any:
        rows = encoder.encode(check_texts(queries["query"], "query {1}", queries["qid"].tolist()))
        return queries.assign(query_toks=list(to_toks(terms.terms, rows.astype(float), f"{terms.fingerprint}:1")))

    return pt.apply.generic(encode)


class _Tokenizer:
    """A folder's tokenizer.json, called as transformers' tokenizers are."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from tokenizers import Tokenizer

        self.backend = Tokenizer.from_file(str(expand(path) / "tokenizer.json"))
        self.backend.no_padding()
        self.side = read_json(path, "tokenizer_config.json").get("truncation_side", "right")
        self.get_vocab = self.backend.get_vocab

    def __call__(self, texts: list[str], *, add_special_tokens: bool, max_length: int, **_: Any) -> dict[str, Any]:
        self.backend.enable_truncation(max_length, direction=self.side)
        found = self.backend.encode_batch(texts, add_special_tokens=add_special_tokens)
        return {"input_ids": [one.ids for one in found]}
