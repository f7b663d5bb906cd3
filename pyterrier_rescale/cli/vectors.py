"""The verbs ``encode``, ``index`` and ``export``: vectors made once, indexed, and handed to other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

CollectionName = Annotated[str, Argument(help="BEIR folder, 'docstrings', PyTerrier dataset name, or irds:<id>.")]
Engine = Annotated[str, Option(help="terrier, pisa, exact, seismic or milvus.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Start anew, if something else of ours is there.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress bars.")]
BatchSize = Annotated[int, Option(help="Texts per batch.", min=1)]


def encode(
    encoder: Annotated[str, Argument(help="Folder or hub name of a SPLADE encoder.")],
    collection: CollectionName,
    output: Annotated[Path, Argument(help="Folder of the vectors.")],
    workers: Annotated[int, Option(help="Processes, or actors with --ray.", min=1)] = 1,
    shard: Annotated[
        str | None, Option(help="I/N: only every N-th shard, from I on; others do the rest.", metavar="I/N")
    ] = None,
    ray: Annotated[str | None, Option(help="On a Ray cluster: its address, or auto.", metavar="ADDRESS")] = None,
    max_terms: Annotated[int | None, Option(help="Heaviest terms kept per document.", min=1)] = None,
    min_weight: Annotated[float, Option(help="Terms of less weight are dropped.", min=0)] = 0.0,
    shard_size: Annotated[int, Option(help="Documents per shard.", min=1)] = 50_000,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode a collection once into Parquet shards; interrupted, the same command goes on."""
    from .. import Splade, load_collection
    from .. import encode as run

    vectors = run(
        Splade(encoder, batch_size=batch_size), load_collection(collection), output, shard_size=shard_size,
        workers=workers, shard=shard, max_terms=max_terms, min_weight=min_weight,
        ray=True if ray == "auto" else ray or False, overwrite=overwrite, verbose=not quiet,
    )  # fmt: skip
    if not vectors.complete:
        typer.echo(f"{output}: this part is done; the manifest is written when all {shard.partition('/')[2]} are")
        return
    typer.echo(f"{output}: {len(vectors):,} documents, {vectors.size_bytes / 1e6:.1f} MB")


def index(
    source: Annotated[
        list[str],
        Argument(
            help="Folder or hub name of a SPLADE encoder, and a collection; or a folder of vectors; or an index.",
            metavar="ENCODER COLLECTION | VECTORS",
        ),
    ],
    path: Annotated[Path, Argument(help="Folder of the index.", metavar="PATH")],
    engine: Engine = "terrier",
    scale: Annotated[float, Option(help="Units per weight.")] = 100,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode and index the documents of a collection; or index vectors, or what another index holds: no model."""
    from .. import Splade, load_collection, open_index, open_vectors
    from .._utils.files import expand
    from .._utils.made_from import check_same
    from ..indexing.build import build_index
    from ..indexing.engines import engine_class

    engine_class(engine)  # which may not be installed
    path = expand(path)
    if len(source) > 2:
        raise ValueError(f"give ENCODER COLLECTION PATH or VECTORS PATH, got {len(source) + 1} arguments")
    if len(source) == 2:
        encoder, documents = Splade(source[0], batch_size=batch_size), load_collection(source[1])
        built = build_index(
            encoder, documents.corpus, path, engine=engine, scale=scale, overwrite=overwrite, verbose=not quiet
        )
    else:
        vectors = open_vectors(source[0])
        built = open_index(path, engine, scale=scale)
        if built.built and not overwrite:
            check_same(path, built.made_from or {"made_from": None}, vectors.made_from or {})
        else:
            built.indexer(mode="overwrite" if overwrite else "create", verbose=not quiet).index(vectors)
    typer.echo(f"{path}: {len(built):,} documents, {built.size_bytes / 1e6:.1f} MB")


def export(
    source: Annotated[Path, Argument(help="Folder of vectors, or of an index.")],
    output: Annotated[Path, Argument(help="Folder that is written; with ciff, a file.")],
    format: Annotated[
        str,
        Option(
            help="anserini, ciff, lsr-benchmark, opensearch, opensearch-ann, pgvector or qdrant.", show_default=False
        ),
    ],
    scale: Annotated[float | None, Option(help="Units per weight (anserini, ciff) [100].")] = None,
    topics: Annotated[str | None, Option(help="A collection: its topics are written, too.")] = None,
    split: Annotated[str, Option(help="Split of the topics.")] = "test",
    encoder: Annotated[str | None, Option(help="The encoder of the topics.")] = None,
    max_terms: Annotated[int | None, Option(help="Heaviest terms kept of each topic.", min=1)] = None,
    terms: Annotated[str, Option(help="safe; raw (tokens) for engines that encode queries themselves.")] = "safe",
    documents: Annotated[
        str | None, Option(help="The collection that was encoded: its texts are written, too.")
    ] = None,
    text: Annotated[str, Option(help="The field of the text in these documents.")] = "text",
    title: Annotated[str, Option(help="The field of the title.")] = "title",
    int8: Annotated[bool, Option("--int8", help="onnx: write a graph in eight bits, too.")] = False,
) -> None:
    """Write vectors, or what an index holds, for other engines: Anserini, OpenSearch, Elasticsearch, Qdrant, ...

    With --format onnx the source is an encoder, and the output a folder of it with an ONNX graph.
    """
    from .. import Splade, load_collection, open_vectors
    from ..indexing.export.run import export as run

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
