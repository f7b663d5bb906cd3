"""The verb ``search`` of the command line, and what makes up the scores of its results."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 8


def search(
    path: Annotated[Path, Argument(help="Folder of an index.", metavar="PATH")],
    encoder: Annotated[str, Argument(help="The encoder that the index was made with.")],
    query: Annotated[str | None, Argument(help="A query; or use --topics.")] = None,
    topics: Annotated[str | None, Option(help="A collection: search the topics of its split.")] = None,
    split: Annotated[str, Option(help="Split of the topics.")] = "test",
    run_file: Annotated[Path | None, Option("--run", help="Write a TREC run here.")] = None,
    n: Annotated[
        int | None, Option("-n", help="Documents per query; default: 10, and 1000 for --topics.", min=1)
    ] = None,
    explain: Annotated[bool, Option("--explain", help="Show the terms that make each score.")] = False,
) -> None:
    """Search an index, for one query or for the topics of a collection that have judgements."""
    import pandas as pd
    import pyterrier as pt

    from .. import Splade, load_collection, open_index
    from .._utils.files import expand

    if (query is None) == (topics is None):
        raise ValueError("give INDEX ENCODER QUERY, or INDEX ENCODER --topics COLLECTION")
    index, splade = open_index(path), Splade(encoder)
    made_from = index.made_from or {}
    if made_from.get("encoder") not in (None, splade.fingerprint):
        made_by = made_from.get("encoder_settings", "without a name")
        warnings.warn(f"the index was made by another encoder, {made_by}: scores may mean nothing", stacklevel=2)
    if topics is None:
        frame = pd.DataFrame({"qid": ["1"], "query": [query]})
    else:
        frame = load_collection(topics).topics(split)
    retriever = index.retriever(n or (10 if topics is None else 1000))
    results = (splade.query_encoder() >> retriever)(frame)
    if run_file is not None:
        pt.io.write_results(results, str(expand(run_file)))
        typer.echo(f"{run_file}: {len(results):,} results of {results['qid'].nunique():,} queries")
        return
    shown = results[["qid", "docno", "rank", "score"]]
    typer.echo(shown.to_string(index=False) if len(shown) else "no document shares a term with the query")
    if explain:
        _explain(results, splade, index)


def _explain(results: pd.DataFrame, splade: Any, index: Any) -> None:
    """A line per result: the score as a sum of what each term adds, by the weights in the index."""
    typer.echo("\nqid, docno, and the score as the sum of what each term adds (## continues a word)")
    terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
    for row in results.itertuples():
        vector = index.vector(row.docno)
        weights = dict(zip(index.terms[vector.indices], vector.data.tolist(), strict=True))
        parts = {term: weight * weights[term] for term, weight in row.query_toks.items() if term in weights}
        heaviest = sorted(parts, key=parts.__getitem__, reverse=True)
        told = [f"{terms.readable(terms.ids[t], tokenizer)} {parts[t]:.2f}" for t in heaviest[:_SHOWN]]
        if rest := heaviest[_SHOWN:]:
            told.append(f"{len(rest)} more {sum(parts[term] for term in rest):.2f}")
        typer.echo(f"{row.qid} {row.docno}  {sum(parts.values()):.2f} = {' + '.join(told)}")
