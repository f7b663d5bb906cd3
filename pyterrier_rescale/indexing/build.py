"""Encoders to retrieval pipelines: index a corpus once per encoder, reuse what is there and still fits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.documents import as_documents
from .._utils.names import slug
from .._utils.paths import expand
from .corpus import CorpusDigest, corpus_fingerprint

if TYPE_CHECKING:
    import pyterrier as pt

    from ..splade import Splade
    from .engines.base import EngineIndex

# What vectors may have been made with beside the encoder, and an index of them with it; build_index does without.
_WHOLE = {"max_terms": None, "min_weight": 0.0, "pruned": None, "quantised": None}
# Documents that the encoder sorts by length together; the encoder's own batches are smaller.
_WINDOW = 2048


def systems(
    encoders: Mapping[str, Splade],
    corpus: Any,
    index_dir: str | os.PathLike[str],
    *,
    engine: str = "terrier",
    num_results: int = 1000,
    verbose: bool = False,
) -> dict[str, pt.Transformer]:
    """Index a corpus once per encoder and return the pipelines, for ``pt.Experiment(systems(...), ...)``.

    An index that is there is reused if it was made by the same encoder from the same documents (of which the docno and
    the encoder's text field count), else built anew, and a warning says what differs. What is compared stands in the
    index itself (``index.made_from``).

    Args:
        encoders: ``{name: Splade}``; a ``LexicalEncoder``, or whatever else makes the same stages, will do.
        corpus: a collection (``load_collection``), or dicts with ``docno`` and the encoder's text field in what can be
            read several times: a list, a frame, a Hugging Face dataset.
        index_dir: a folder that gets one index per name.
        engine: ``"terrier"``, ``"pisa"`` or ``"exact"``.
        num_results: documents per query.
        verbose: show progress bars.

    Returns:
        ``{name: splade.query_encoder() >> index.retriever()}`` in the order given.

    Raises:
        TypeError: if ``encoders`` is not a dict of names -> Splade encoders, or ``corpus`` can be read only once.
        ValueError: for an empty dict, an unknown engine, an empty corpus.
    """
    if not isinstance(encoders, Mapping) or not all(map(_is_encoder, encoders.values())):
        raise TypeError("encoders must be a dict of name -> Splade, e.g. {'raw': splade_a, 'k=16': splade_b}")
    if not encoders:
        raise ValueError("encoders must hold at least one Splade, got an empty dict")
    if not all(isinstance(name, str) and name for name in encoders):
        raise TypeError(f"names of encoders must be non-empty str, got {list(encoders)}")
    documents = _reiterable(corpus)
    fields = dict.fromkeys(splade.text_field for splade in encoders.values())
    corpus_ids = {field: corpus_fingerprint(documents, ("docno", field)) for field in fields}
    pipelines = {}
    for name, splade in encoders.items():
        index = build_index(
            splade, documents, expand(index_dir) / slug(name),
            engine=engine, corpus_id=corpus_ids[splade.text_field], verbose=verbose,
        )  # fmt: skip
        pipelines[name] = splade.query_encoder() >> index.retriever(num_results)
    return pipelines


def build_index(
    splade: Splade,
    documents: Callable[[], Iterable[dict[str, Any]]],
    path: Path,
    *,
    engine: str = "terrier",
    corpus_id: str | None = None,
    scale: float = 100,
    overwrite: bool = True,
    verbose: bool = False,
) -> EngineIndex:
    """The index of the documents at ``path``: reused if encoder, documents, engine and scale are the same, else built.

    What an index was made from stands in its own manifest (``index.made_from``), which is written last: an interrupted
    build leaves the former index as what it is. One that is replaced stays until the new one is whole. An index of
    vectors (``encode``) of all terms, by the same encoder from the same documents, is the same.

    ``documents`` gives a fresh iterator at each call; ``corpus_id`` is their ``corpus_fingerprint(documents, ("docno",
    splade.text_field))`` if it is known, else taken here.

    Raises:
        FileExistsError: something else is at ``path``, or an index that does not know what it was made from.
        RuntimeError: the documents that were indexed are others than ``corpus_id`` says.
    """
    from .engines import engine_class, reading

    path, fields = Path(path), ("docno", splade.text_field)
    made_from = origin(splade, corpus_id or corpus_fingerprint(documents, fields))
    kind = engine_class(engine)
    found = reading.read_meta(path)
    if found is not None:
        if found.get("made_from") is None:
            raise FileExistsError(
                f"the index at {str(path)!r} does not say what it was made from, as those of systems() do: choose "
                "another folder"
            )
        differs = _differences(found, {**made_from, "engine": engine, "scale": float(scale)})
        if not differs and kind(path).built:
            return kind(path)
        if not overwrite:
            raise ValueError(f"{str(path)!r} was made from other inputs: {'; '.join(differs)}. "
                             "Start anew with overwrite=True")  # fmt: skip
        warnings.warn(
            f"the index at {str(path)!r} is built anew: {'; '.join(differs) or 'its files are damaged'}", stacklevel=2
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    index = kind.replacing(path, scale=scale)
    indexer = index.indexer(mode="create" if found is None else "overwrite", verbose=verbose, made_from=made_from)
    checked = _checked(documents(), fields, made_from["corpus"])
    (splade.doc_encoder(scale=scale, verbose=False) >> indexer).index(checked, batch_size=_WINDOW)
    return index


def origin(splade: Splade, corpus_id: str) -> dict[str, str]:
    """What an index of a corpus is made from: the `made_from` by which `systems` knows it again."""
    return {
        "encoder": splade.fingerprint,
        "encoder_settings": repr(splade),
        "corpus": corpus_id,
        "field": splade.text_field,
    }


def _is_encoder(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("doc_encoder", "query_encoder"))


def _checked(
    documents: Iterable[dict[str, Any]], fields: Sequence[str], expected: str
) -> Iterator[dict[str, Any]]:
    """The documents; an error at the end if they were others than expected, so that no index tells a lie."""
    digest = CorpusDigest(fields)
    for document in documents:
        digest.add(document)
        yield document
    if digest.value != expected:
        raise RuntimeError(
            f"the documents that were indexed ({digest.value} by {', '.join(fields)}) are not those expected "
            f"({expected}): they changed in the meantime, or corpus_id is of other documents or fields"
        )


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What an index that is there was made from otherwise, in words."""
    was = {**found["made_from"], "engine": found["engine"], "scale": found["scale"]}
    was, wanted, told = {**_WHOLE, **was}, {**_WHOLE, **wanted}, []
    for key in ("encoder", "corpus", "field", "engine", "scale", *_WHOLE):
        if was.get(key) != wanted[key]:
            settings = f" ({was['encoder_settings']})" if key == "encoder" and "encoder_settings" in was else ""
            told.append(f"its {key} was {was.get(key)}{settings}, not {wanted[key]}")
    return told


def _reiterable(corpus: Any) -> Callable[[], Iterable[dict[str, Any]]]:
    """A function that gives a fresh iterator over the documents."""
    if hasattr(corpus, "corpus"):
        return corpus.corpus
    corpus = as_documents(corpus)
    if iter(corpus) is corpus:
        raise TypeError(
            f"corpus must be readable several times, got a {type(corpus).__name__}: give a collection, a frame, or "
            "list(documents) where they fit the memory"
        )
    return lambda: iter(corpus)
