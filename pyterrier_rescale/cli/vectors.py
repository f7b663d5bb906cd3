"""The verbs ``encode``, ``index``, ``search`` and ``export``: vectors made once, indexed, searched, handed on."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

CollectionName = Annotated[
    str, Argument(help="A folder or CSV of your own, 'docstrings', irds:NAME, or a PyTerrier dataset's name.")
]
Encoder = Annotated[str, Argument(help="Folder or hub name of a SPLADE encoder.")]
Engine = Annotated[str, Option(help="terrier, pisa, exact, seismic or milvus.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Start anew, even if the folder holds a result already.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress bars.")]
BatchSize = Annotated[int, Option(help="Texts per batch.", min=1)]
Split = Annotated[str, Option(help="Split of the topics.")]
_SHOWN = 8


def encode(
    encoder: Encoder,
    collection: CollectionName,
    output: Annotated[Path, Argument(help="Folder of the vectors.")],
    workers: Annotated[int, Option(help="Processes, or actors with --ray.", min=1)] = 1,
    shard: Annotated[str | None, Option(help="Encode only every N-th shard, from I on.", metavar="I/N")] = None,
    ray: Annotated[str | None, Option(help="Encode on a Ray cluster: its address, or auto.", metavar="ADDRESS")] = None,
    max_terms: Annotated[int | None, Option(help="Heaviest terms kept per document.", min=1)] = None,
    min_weight: Annotated[float, Option(help="Drop terms below this weight.", min=0)] = 0.0,
    shard_size: Annotated[int, Option(help="Documents per shard.", min=1)] = 50_000,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode a collection once into Parquet shards; if interrupted, repeat the command to continue."""
    from .. import Splade, load_collection
    from .. import encode as run

    documents = load_collection(collection)  # first: a wrong name costs no loading of a model
    vectors = run(
        Splade(encoder, batch_size=batch_size), documents, output, shard_size=shard_size, workers=workers,
        shard=shard, max_terms=max_terms, min_weight=min_weight,
        ray=True if ray == "auto" else ray or False, overwrite=overwrite, verbose=not quiet,
    )  # fmt: skip
    if vectors.complete:
        typer.echo(f"{output}: {len(vectors):,} documents, {vectors.size_bytes / 1e6:.1f} MB")
    else:
        typer.echo(f"{output}: this part is done; the manifest is written when all {shard.partition('/')[2]} are")


def index(
    words: Annotated[
        list[str], Argument(help="PATH is the folder of the index.", metavar="ENCODER COLLECTION PATH | VECTORS PATH")
    ],
    engine: Engine = "terrier",
    scale: Annotated[float, Option(help="Units per weight.")] = 100,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode and index a collection; or index vectors, or those of another index, without a model.

    An interrupted command starts over: encode a large collection first, and index its vectors.
    """
    from .. import Splade, load_collection, open_index, open_vectors
    from .._utils.files import expand
    from .._utils.made_from import check_same
    from ..indexing.build import build_index
    from ..indexing.engines import engine_class
    from ..indexing.store import read_manifest

    engine_class(engine)  # which may not be installed
    *source, path = words
    path = expand(path)
    if len(words) == 2 and read_manifest(expand(words[0])) is None or len(words) not in (2, 3):
        raise ValueError(
            "give ENCODER COLLECTION PATH, or VECTORS PATH where VECTORS holds vectors or an index, got "
            f"{len(words)} words: {' '.join(words)}"
        )
    if len(source) == 2:
        documents, encoder = load_collection(source[1]), Splade(source[0], batch_size=batch_size)
        built = build_index(
            encoder, documents.corpus, path, engine=engine, scale=scale, overwrite=overwrite, verbose=not quiet
        )
    else:
        vectors = open_vectors(source[0])
        built = open_index(path, engine, scale=scale)
        if built.complete and not overwrite:
            check_same(path, built.made_from or {"made_from": None}, vectors.made_from or {})
        else:
            built.indexer(mode="overwrite" if overwrite else "create", verbose=not quiet).index(vectors)
    typer.echo(f"{path}: {len(built):,} documents, {built.size_bytes / 1e6:.1f} MB")


def search(
    path: Annotated[Path, Argument(help="Folder of an index.", metavar="PATH")],
    encoder: Annotated[str, Argument(help="The encoder of the index.")],
    query: Annotated[str | None, Argument(help="A query; or - to read one per line from standard input.")] = None,
    topics: Annotated[str | None, Option(help="Queries of a collection, a CSV, or lines of id, tab, query.")] = None,
    split: Split = "test",
    texts: Annotated[str | None, Option(help="The indexed collection: show how each text found begins.")] = None,
    run_file: Annotated[Path | None, Option("--run", help="Write a TREC run here.")] = None,
    n: Annotated[int | None, Option("-n", help="Documents per query [10; of --topics 1000].", min=1)] = None,
    explain: Annotated[bool, Option("--explain", help="Show the terms that make each score.")] = False,
) -> None:
    """Search an index: one query, many from standard input, or the topics of a collection or a file."""
    import pandas as pd
    import pyterrier as pt

    from .. import Splade, load_collection, open_index
    from .._utils.checks import warn
    from .._utils.files import expand
    from ..splade.static import static_queries

    if (query is None) == (topics is None):
        raise ValueError("give INDEX ENCODER QUERY, or INDEX ENCODER --topics COLLECTION")
    index, collection = open_index(path), None if texts is None else load_collection(texts)
    made_from = index.made_from or {}
    encode = None if explain else static_queries(encoder)
    if encode is None:
        splade = Splade(encoder)
        encode = splade.query_encoder()
        if made_from.get("encoder") not in (None, splade.fingerprint):
            made_by = made_from.get("encoder_settings", "without a name")
            warn(f"the index was made by another encoder, {made_by}: scores may be meaningless")
    if topics is None:
        queries = _typed() if query == "-" else [("1", query)]
    elif Path(topics).is_file():
        queries = _topics_in(Path(topics))
    else:
        queries = load_collection(topics).topics(split)
    pipeline = encode >> index.retriever(n or (10 if topics is None else 1000))
    if run_file is not None:
        results = pipeline(pd.DataFrame(queries, columns=["qid", "query"]))
        pt.io.write_results(results, str(expand(run_file)))
        typer.echo(f"{run_file}: {len(results):,} results of {results['qid'].nunique():,} queries")
        return
    width = shutil.get_terminal_size().columns - 5
    for qid, text in queries if topics is None else queries.itertuples(index=False):
        results = pipeline(pd.DataFrame({"qid": [qid], "query": [text]}))
        found = {} if collection is None else collection.find(results["docno"])
        typer.echo(f"{qid}: {text}" if len(results) else f"{qid}: no document shares a term with {text!r}")
        for row in results.itertuples():
            typer.echo(f"{row.rank + 1:4} {row.docno}  {row.score:.3f}")
            if row.docno in found:
                typer.echo(f"     {textwrap.shorten(found[row.docno]['text'], width, placeholder=' ...')}")
            if explain:
                typer.echo(f"     = {_sum(row, splade, index)}")


def _topics_in(file: Path) -> Any:
    """The topics of a table that names its columns; or of lines of an id, a tab and a query."""
    from ..collections.files import COLUMNS, JSON_LINES, numbered_lines, read_table, rows_of

    lines = [(f"{file}, line {number}", line.split("\t", 1)) for number, line in numbered_lines(file) if line.strip()]
    named = lines and lines[0][1][0].lower().replace("-", "_") in COLUMNS["qid"]
    if named or {".csv", *JSON_LINES} & {ending.lower() for ending in file.suffixes}:
        return read_table(rows_of(file, "topics"), "qid", "query")
    rows = ((where, dict(zip(["qid", "query"], cells, strict=False))) for where, cells in lines)  # a cell may lack
    return read_table(rows, "qid", "query")


def _typed() -> Iterator[tuple[str, str]]:
    """The lines of standard input, numbered; at a terminal they are typed at a prompt, until Ctrl-D."""
    prompt = "query> " if sys.stdin.isatty() else ""
    with suppress(EOFError):
        for number in itertools.count(1):
            yield str(number), input(prompt)


def _sum(result: Any, splade: Any, index: Any) -> str:
    """A score as a sum of what each term adds, by the weights in the index; ## continues a word."""
    vector, terms = index.vector(result.docno), splade.term_map()
    weights = dict(zip(index.terms[vector.indices], vector.data.tolist(), strict=True))
    parts = {term: weight * weights[term] for term, weight in result.query_toks.items() if term in weights}
    heaviest = sorted(parts, key=parts.__getitem__, reverse=True)
    told = [f"{terms.readable(terms.ids[t], splade.encoder.tokenizer)} {parts[t]:.2f}" for t in heaviest[:_SHOWN]]
    if rest := heaviest[_SHOWN:]:
        told.append(f"{len(rest)} more {sum(parts[term] for term in rest):.2f}")
    return " + ".join(told)


def export(
    source: Annotated[Path, Argument(help="Folder of vectors, or of an index.")],
    output: Annotated[Path, Argument(help="Output folder; with ciff, a file.")],
    format: Annotated[str, Option(help="anserini, ciff, lsr-benchmark, onnx, opensearch[-ann], pgvector, qdrant.")],
    scale: Annotated[float | None, Option(help="Units per weight (anserini, ciff) [100].")] = None,
    topics: Annotated[str | None, Option(help="Also write the topics of this collection.")] = None,
    split: Split = "test",
    encoder: Annotated[str | None, Option(help="The encoder of the topics.")] = None,
    max_terms: Annotated[int | None, Option(help="Heaviest terms kept of each topic.", min=1)] = None,
    terms: Annotated[str, Option(help="safe; raw (tokens) for engines that encode queries themselves.")] = "safe",
    documents: Annotated[str | None, Option(help="The encoded collection: also write its texts.")] = None,
    text: Annotated[str, Option(help="Field of the text in these documents.")] = "text",
    title: Annotated[str, Option(help="Field of the title.")] = "title",
    int8: Annotated[bool, Option("--int8", help="onnx: also write a graph in eight bits.")] = False,
) -> None:
    """Write the vectors of a folder or an index for other engines: Anserini, OpenSearch, Elasticsearch, Qdrant, ...

    With --format onnx the source is an encoder, and the output a copy of it with an ONNX graph.
    """
    from .. import Splade, load_collection, open_vectors
    from .._utils.checks import check_choice
    from ..indexing.export.run import FORMATS
    from ..indexing.export.run import export as run

    check_choice("format", format, ["onnx", *FORMATS])  # before a source that is none of that format's
    if format == "onnx":
        Splade(source).export_onnx(output, int8=int8)
        typer.echo(f"{output}: the encoder, and onnx/model.onnx")
        return
    if (topics is None) != (encoder is None):
        raise ValueError("--topics needs --encoder, and the other way round")
    queries = None if topics is None else Splade(encoder).query_encoder()(load_collection(topics).topics(split))
    target = run(
        open_vectors(source), output, format, scale=scale, queries=queries, max_terms=max_terms, terms=terms,
        documents=None if documents is None else load_collection(documents), text=text, title=title,
    )  # fmt: skip
    files = [file for file in [target, *target.rglob("*")] if file.is_file()]
    typer.echo(f"{target}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
