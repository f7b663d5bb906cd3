"""The verb ``search`` of the command line, and what makes up the scores of its results."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._utils.paths import expand

if TYPE_CHECKING:
    import pandas as pd

SEARCH_EXAMPLE = "Example: pyterrier-rescale search scifact.index splade 'vitamin D and bone density'"
_SHOWN = 8


def expanded(path: Path | None) -> Path | None:
    """``~`` as the home folder: shells leave it where it follows ``=``."""
    return None if path is None else expand(path)


def search(
    path: Annotated[str, typer.Argument(help="Folder of an index, or a URL.", metavar="PATH", show_default=False)],
    encoder: Annotated[str, typer.Argument(help="The encoder that the index was made with.", show_default=False)],
    query: Annotated[str | None, typer.Argument(help="A query; or use --topics.", show_default=False)] = None,
    topics: Annotated[str | None, typer.Option(help="A collection: search all its topics.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the topics [test].", show_default=False)] = None,
    run_file: Annotated[Path | None, typer.Option("--run", help="Write a TREC run here.", callback=expanded)] = None,
    n: Annotated[
        int | None, typer.Option("-n", help="Documents per query; default: 10, and 1000 for --topics.", min=1)
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The index's engine; default: what it says itself.")] = None,
    explain: Annotated[bool, typer.Option(help="Show the query's heaviest terms, and what makes each score.")] = False,
    texts: Annotated[
        str | None, typer.Option(help="A collection: explain by its texts, not by what the index holds.")
    ] = None,
) -> None:
    """Search an index, for one query or for all topics of a collection."""
    import pandas as pd
    import pyterrier as pt

    from .. import Splade, load_collection, open_index

    if query is None and topics is None:
        raise ValueError(
            f"a query is missing: give INDEX ENCODER QUERY, or --topics; got index {path!r} and encoder {encoder!r}"
        )
    if query is not None and topics is not None:
        raise ValueError("give either a query or --topics, not both")
    if texts is not None and not explain:
        raise ValueError("--texts goes with --explain")
    if split is not None and topics is None:
        raise ValueError(f"--split goes with --topics, got --split {split} and a query")
    if explain and run_file is not None:
        raise ValueError("--explain shows its results, --run writes them: give one of the two")
    target = open_index(path) if engine is None else open_index(path, engine)
    if not target.built:
        kind = f"{engine} index" if engine else "index"
        raise FileNotFoundError(f"no whole {kind} at {str(path)!r}: make one with `pyterrier-rescale index`")
    splade = Splade(encoder)
    _warn_of_another_encoder(splade, target)
    if query is not None:
        frame = pd.DataFrame({"qid": ["1"], "query": [query]})
    else:
        frame = load_collection(topics).topics(split or "test")
    n = n or (10 if topics is None else 1000)
    results = (splade.query_encoder() >> target.retriever(n))(frame)
    if run_file is not None:
        pt.io.write_results(results, str(run_file))
        typer.echo(f"{run_file}: {len(results):,} results of {results['qid'].nunique():,} queries")
        return
    if explain and query is not None:
        _explain_query(splade, query)
    shown = results[["qid", "docno", "rank", "score"]]
    typer.echo(shown.to_string(index=False) if len(shown) else "no document shares a term with the query")
    if explain:
        _explain_results(results, splade, target, texts)


def _warn_of_another_encoder(splade: Any, index: Any) -> None:
    """Scores of one encoder's queries and another one's documents are numbers, too, but mean little."""
    made_from = index.made_from or {}
    if made_from.get("encoder") not in (None, splade.fingerprint):
        warnings.warn(
            f"the index was made by another encoder, {made_from.get('encoder_settings', 'without a name')}: scores may "
            "mean nothing", stacklevel=2,
        )  # fmt: skip


def _explain_query(splade: Any, query: str) -> None:
    terms = splade.explain(query, "").nlargest(10, "query_weight")
    shown = zip(terms["term"], terms["query_weight"], strict=True)
    typer.echo("the query's heaviest terms and their weights (## continues a word)")
    typer.echo("  ".join(f"{term} {weight:.2f}" for term, weight in shown) + "\n")


def _explain_results(results: pd.DataFrame, splade: Any, index: Any, texts: str | None) -> None:
    """A line per result: the score as a sum of its terms' contributions, by the index's weights or by the texts."""
    typer.echo("\nqid, docno, and the score as the sum of what each term adds: query weight times document weight")
    if texts is None:
        vectors, terms = index.vectors(), splade.term_map()
        for row in results.itertuples():
            vector = vectors.vector(row.docno)
            weights = zip(vectors.terms[vector.indices], vector.data.tolist(), strict=True)
            _show_sum(row, (
                (terms.readable(terms.ids[term], splade.encoder.tokenizer), row.query_toks[term] * weight)
                for term, weight in weights
                if term in row.query_toks
            ))
        return
    from .. import load_collection

    for row in load_collection(texts).text_loader([splade.text_field])(results).itertuples():
        found = splade.explain(row.query, getattr(row, splade.text_field))
        _show_sum(row, zip(found["term"], found["contribution"], strict=True))


def _show_sum(row: Any, contributions: Iterable[tuple[str, float]]) -> None:
    parts = sorted((part for part in contributions if part[1] > 0), key=lambda part: -part[1])
    told = [f"{term} {value:.2f}" for term, value in parts[:_SHOWN]]
    if parts[_SHOWN:]:
        told.append(f"{len(parts) - _SHOWN} more {sum(value for _, value in parts[_SHOWN:]):.2f}")
    typer.echo(f"{row.qid} {row.docno}  {sum(value for _, value in parts):.2f} = {' + '.join(told)}")
