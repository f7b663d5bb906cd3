"""Splade, the PyTerrier adapter: settings and factory of the roles. No mathematics here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .._utils.progress import progress_bar
from .._utils.stages import schematic
from ..encoding.pruning import check_pruning, prune
from ..encoding.terms import TermMap
from ..encoding.texts import check_texts
from .stages import SpladeDocEncoder, SpladeQueryEncoder, SpladeScorer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoding.description import Description
    from ..encoding.text_encoder import TextEncoder
    from .explanation import Explanation


class Splade(pt.Transformer):
    """A SPLADE encoder: a masked LM whose head gives term weights; factory of PyTerrier stages.

    Called itself, it encodes: queries (``qid, query`` -> ``+query_toks``), documents (``docno, text`` -> ``+toks``) or
    scores results (``qid, query, docno, text`` -> ``+score, rank``).

    Args:
        model: a hub name, a folder, or a loaded masked LM. A loaded one is left as it is, mode and device included:
            it is shared, so that training it further shows, but copied where ``rescale``, ``shift`` or another
            ``device`` asks.
        tokenizer: a tokenizer (copied), its name or folder; default: the model's.
        rescale: divide the head by this constant first (:func:`~pyterrier_rescale.rescale`), or ``None``.
        pooling: ``"max"`` or ``"sum"`` over positions; default, as of the next two and the last four: what the folder
            or hub name was saved with, else ``"max"``. Queries encoded otherwise than documents (another pooling,
            static weights, another model) stay so.
        activation: ``"relu"``: log(1 + relu(x)); ``"log1p_relu"``: log(1 + log(1 + relu(x))), as OpenSearch's v3 models
            have it; else ``"relu"``.
        max_length: tokens per text; else the tokenizer's length, at most the model's positions, as ``SparseEncoder``
            reads (256 where neither has a limit).
        batch_size: texts per batch at most.
        text_field: column of the documents' text.
        lowercase: lower-case texts first; default: as saved, else false.
        device: torch device; default: CUDA where present, else Apple's MPS, else the CPU.
        dtype: torch dtype of the weights, or its name; default: float32.
        verbose: show progress bars.
        shift: weights are log(1 + relu(x - shift)), a number or one for each term, (V,), in units of the logits after
            ``rescale`` (SPARSEUP, Linkup 2026: 15). It is stored in the model's bias, so that a saved folder gives the
            same vectors in every tool, and ``Splade(folder)`` needs no shift.
        position_top_k: of each position only so many logits, the largest, take part in pooling (SPARSEUP: 12); else
            all. Other tools that load a saved folder do not know it, nor ``fold``.
        fold: ``"case"``: variants of a term in case and word start (``apple``, ``Apple``, with and without a space
            before) are one, whose weight is the largest of theirs; else ``None``.
        special_terms: false: special tokens ([CLS], [SEP], ...) are no terms, as on OpenSearch's model cards; it is
            stored in the model's bias, as ``shift`` is; else true.
        special_positions: false: positions of special tokens and the first position are left out of the pooling, in
            documents and queries (language models use the first one as an attention sink); else true. Other tools do
            not know it.
        attention: of a causal language model ``"causal"`` or ``"bidirectional"``; default: as its configuration says.
            A saved folder keeps it.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a model, tokenizer or setting that cannot serve.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        rescale: float | None = None,
        pooling: str | None = None,
        activation: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        text_field: str = "text",
        lowercase: bool | None = None,
        device: Any = None,
        dtype: Any = None,
        verbose: bool = False,
        shift: Any = None,
        position_top_k: int | None = None,
        fold: str | None = None,
        special_terms: bool | None = None,
        special_positions: bool | None = None,
        attention: str | None = None,
    ) -> None:
        from .._utils.java import ensure_java
        from ..encoding.saved_folder import describe
        from ..encoding.text_encoder import TextEncoder, default_device
        from ..heads.checkpoint import load_backbone
        from ..heads.rescaling import rescale as rescale_head

        if isinstance(rescale, str):
            raise ValueError(
                f"rescale must be a number or None here, got {rescale!r}: 'auto' and 'calibrated' need texts; use "
                "calibrate(model, texts).apply(model), or train(..., rescale=...)"
            )
        given = {
            "pooling": pooling, "activation": activation, "max_length": max_length, "lowercase": lowercase,
            "shift": shift, "position_top_k": position_top_k, "fold": fold, "special_terms": special_terms,
            "special_positions": special_positions,
        }  # fmt: skip
        description = describe(model, **given)
        loaded, loaded_tokenizer = load_backbone(model, tokenizer, dtype=dtype, attention=attention)
        if loaded is model and dtype is not None:
            raise ValueError("dtype cannot be changed for a loaded model: load it with the dtype wanted")
        if rescale is not None:
            loaded = rescale_head(loaded, rescale, inplace=loaded is not model)
        if loaded is not model:
            loaded = loaded.to(default_device(device))
        self.encoder: TextEncoder = TextEncoder(
            loaded, loaded_tokenizer, description, batch_size=batch_size, device=device
        )
        self.queries_encoder: Any = self.encoder.of_queries()
        self.model = model
        self.tokenizer = tokenizer
        self.rescale = rescale
        self.batch_size = batch_size
        self.text_field = text_field
        self.device = device
        self.dtype = dtype
        self.attention = attention
        self.verbose = verbose
        for name, value in given.items():  # what holds, and for repr and PyTerrier's copies what was given
            setattr(self, name, getattr(description, name))
            setattr(self, f"_{name}", value)
        self.max_length = self.encoder.max_length
        self._terms: dict[str, TermMap] = {}
        # A plain Terrier index may follow in the pipeline: choose its JVM while it can still be chosen. Machines
        # without any Java still encode, score, and use the exact engine.
        with suppress(RuntimeError):
            ensure_java()

    @property
    def description(self) -> Description:
        """How the encoder's logits become weights, beside its model and tokenizer."""
        return self.encoder.description

    def doc_encoder(
        self,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        scale: float = 100,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> SpladeDocEncoder:
        """Stage ``docno, text`` -> ``+toks``: {term: rounded int(scale * weight) >= 1}, ready for an index.

        Args:
            text_field: column of the text; default: the factory's.
            batch_size: texts per batch at most; default: the factory's. Left out, PyTerrier's indexing pipelines hand
                over 2,048 documents at a time, else the larger of 100 and this.
            scale: units per weight; 100 keeps .99 of the exact top 10.
            terms: ``"safe"`` or ``"raw"``, see :mod:`pyterrier_rescale.encoding.terms`.
            verbose: show a progress bar; default: the factory's.
            max_terms: heaviest terms kept per text; default: all.
            min_weight: terms of less weight, before scaling, are dropped.
        """
        return SpladeDocEncoder(
            self, text_field=text_field, batch_size=batch_size, scale=scale, terms=terms, verbose=verbose,
            max_terms=max_terms, min_weight=min_weight,
        )  # fmt: skip

    def query_encoder(
        self,
        *,
        batch_size: int | None = None,
        scale: float = 1.0,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> SpladeQueryEncoder:
        """Stage ``qid, query`` -> ``+query_toks``: {term: scale * weight}, floats > 0.

        Arguments as for :meth:`doc_encoder`. With ``max_terms`` or ``min_weight``, the column ``query_toks_all`` has
        all terms: ``query_encoder(max_terms=5) >> index.retriever() >> index.scorer()`` retrieves by the heaviest terms
        and re-scores by all.
        """
        return SpladeQueryEncoder(
            self, batch_size=batch_size, scale=scale, terms=terms, verbose=verbose, max_terms=max_terms,
            min_weight=min_weight,
        )  # fmt: skip

    def scorer(
        self, *, text_field: str | None = None, batch_size: int | None = None, verbose: bool | None = None
    ) -> SpladeScorer:
        """Stage ``qid, query, docno, text`` -> ``+score, rank``: exact dot products, no index needed.

        Arguments as for :meth:`doc_encoder`.
        """
        return SpladeScorer(self, text_field=text_field, batch_size=batch_size, verbose=verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode queries or documents, or score results, as the columns tell."""
        with pt.validate.any(inp, context=self) as v:
            v.columns(includes=["qid", "query", "docno", self.text_field], mode="score")
            v.columns(includes=["docno", self.text_field], excludes=["qid"], mode="documents")
            v.columns(includes=["qid", "query"], mode="queries")
        roles = {"score": self.scorer, "documents": self.doc_encoder, "queries": self.query_encoder}
        return roles[v.mode]()(inp)

    def encode_docs(
        self, texts: Iterable[str], *, max_terms: int | None = None, min_weight: float = 0.0
    ) -> csr_matrix:
        """Unscaled document vectors, shape (N, V), float32; column = token id; a blank text gives a zero row.

        Args:
            texts: N strings.
            max_terms: heaviest terms kept per text; default: all.
            min_weight: terms of less weight are dropped.
        """
        return self._pruned(texts, "doc", max_terms, min_weight)

    def encode_queries(
        self, texts: Iterable[str], *, max_terms: int | None = None, min_weight: float = 0.0
    ) -> csr_matrix:
        """Unscaled query vectors; shape and arguments as for :meth:`encode_docs`."""
        return self._pruned(texts, "query", max_terms, min_weight)

    def _pruned(self, texts: Iterable[str], unit: str, max_terms: int | None, min_weight: float) -> csr_matrix:
        pruning = check_pruning(max_terms, min_weight)
        return prune(self._encode(check_texts(texts), None, None, unit), *pruning)

    def _encode(self, texts: list[str], batch_size: int | None, verbose: bool | None, unit: str) -> csr_matrix:
        verbose = self.verbose if verbose is None else verbose
        encoder = self.queries_encoder if unit == "query" else self.encoder
        with progress_bar(total=len(texts), desc="Splade", unit=unit, disable=not verbose) as bar:
            return encoder.encode(texts, batch_size=batch_size, progress=bar.update)

    def term_map(self, terms: str = "safe") -> TermMap:
        """The terms of this encoder's vocabulary, by token id."""
        if terms not in self._terms:
            encoder = self.encoder
            self._terms[terms] = TermMap(encoder.tokenizer, encoder.vocab_size, terms, folding=encoder.folding)
        return self._terms[terms]

    def top_terms(self, text: str, n: int = 10) -> list[tuple[str, float]]:
        """The n heaviest terms of a text with their weights, readable, heaviest first."""
        row = self.encode_docs([text])
        best = np.lexsort((row.indices, -row.data))[:n]
        terms, tokenizer = self.term_map(), self.encoder.tokenizer
        return [(terms.readable(int(row.indices[i]), tokenizer), float(row.data[i])) for i in best]

    def explain(self, query: str, text: str) -> Explanation:
        """The query's terms, their weights on both sides, and what each adds to the score of a text; sums to it."""
        from .explanation import explain

        return explain(self, query, text)

    def save_pretrained(self, path: str | Path) -> None:
        """Save the folder that ``Splade(path)``, AutoModelForMaskedLM, SparseEncoder and pyterrier_splade load."""
        from ..encoding.saved_folder import save_encoder

        save_encoder(path, self.encoder.model, self.encoder.tokenizer, self.encoder.description)

    def export_onnx(self, path: str | os.PathLike[str], *, int8: bool = False) -> None:
        """Save the encoder's folder with an ONNX graph, for onnxruntime and transformers.js (the extra ``onnx``).

        ``onnx/model.onnx`` takes ``input_ids`` and ``attention_mask``, (B, L) int64, of any B and L, and gives
        ``weights``, (B, V) float32: pooling, activation and all options are inside. Where queries are pooled otherwise
        or have a model of their own, ``onnx/query_model.onnx`` gives theirs; static weights of queries need none.

        Args:
            path: a new folder (else ``FileExistsError``); what loads a saved encoder loads it, too.
            int8: write ``onnx/model_quantized.onnx``, too, by onnxruntime's dynamic quantisation.
        """
        from ..encoding.onnx_export import export_encoder

        export_encoder(self.encoder, path, int8=int8)

    # What PyTerrier asks of a transformer

    def subtransformers(self) -> dict[str, Any]:
        """A factory holds no stages."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """Drawing of the stage, made offline."""
        return schematic(self, "Splade")

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of all that an encoder computes with: weights, tokenizer, options, both sides' lengths.

        Computed at each call, since the model may have been trained on (a gigabyte of weights takes about a second).
        ``text_field``, the batch size and the device do not count.
        """
        from ..encoding.description import encoder_fingerprint

        return encoder_fingerprint(self.encoder.model, self.encoder.tokenizer, self.encoder.description)

    def __eq__(self, other: object) -> bool:
        """Whether both compute the same vectors and read the same column, whatever folder they came from."""
        if self is other or not isinstance(other, Splade) or self.text_field != other.text_field:
            return self is other
        heads = [getattr(one.encoder, "head", None) for one in (self, other)]
        if None not in heads:  # most differ in their first rows of W already, which spares two fingerprints
            rows = [head.weight[:64].detach().float().cpu().numpy() for head in heads]
            if not np.array_equal(*rows):
                return False
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(("Splade", self.text_field))  # what stays, whatever is trained

    def __repr__(self) -> str:
        """The call that makes it, with the arguments that are not the defaults."""
        _, first, *others = inspect.signature(type(self).__init__).parameters.values()
        source = getattr(self, first.name)
        shown = [repr(str(source)) if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"]
        for parameter in others:
            name = parameter.name
            value = getattr(self, f"_{name}", getattr(self, name))
            value = tuple(value) if isinstance(value, (list, np.ndarray)) else value
            told = name not in ("verbose", "tokenizer") or isinstance(value, str)
            if told and value != parameter.default:
                shown.append(f"{name}={value!r:.80}")
        return f"{type(self).__name__}({', '.join(shown)})"
