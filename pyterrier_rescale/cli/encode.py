"""The verbs ``encode`` and ``export`` of the command line: vectors made once, and handed to other engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..indexing.vectors.base import SparseVectors

ENCODE_EXAMPLE = "Example: pyterrier-rescale encode splade irds:beir/scifact scifact.vectors --workers 2"
EXPORT_EXAMPLE = "Example: pyterrier-rescale export scifact.vectors scifact.ciff.gz --format ciff"


def encode(
    encoder: Annotated[str, typer.Argument(help="Folder or hub name of a SPLADE encoder.", show_default=False)],
    collection: Annotated[
        str, typer.Argument(help="BEIR folder, 'docstrings', PyTerrier dataset name, or irds:<id>.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the vectors.", show_default=False)],
    address: Annotated[
        str | None, typer.Argument(help="With --ray; default: $RAY_ADDRESS, else a local one.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, or actors with --ray.", min=1)] = 1,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only every N-th shard, from I on; others do the rest.", metavar="I/N")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On a Ray cluster, at ADDRESS if that is given.")] = False,
    max_terms: Annotated[int | None, typer.Option(help="Heaviest terms kept per document.", min=1)] = None,
    min_weight: Annotated[float, typer.Option(help="Terms of less weight are dropped.", min=0)] = 0.0,
    shard_size: Annotated[int, typer.Option(help="Documents per shard.", min=1)] = 50_000,
    batch_size: Annotated[int, typer.Option(help="Texts per batch.", min=1)] = 32,
    restart: Annotated[bool, typer.Option(help="Remove vectors that are there first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Encode a collection once into Parquet shards; interrupted, the same command goes on."""
    from .. import Splade, load_collection
    from .. import encode as run

    if address is not None and not ray:
        raise ValueError(f"got a fourth argument, {address!r}: an address goes with --ray")
    vectors = run(
        Splade(encoder, batch_size=batch_size), load_collection(collection), output, shard_size=shard_size,
        workers=workers, shard=shard, resume=not restart, max_terms=max_terms, min_weight=min_weight,
        ray=address or ray, verbose=not quiet,
    )  # fmt: skip
    if not vectors.complete:
        typer.echo(f"{output}: this part is done; the manifest is written when all {shard.partition('/')[2]} are")
        return
    typer.echo(
        f"{output}: {len(vectors):,} documents, {vectors.manifest['postings'] / len(vectors):.0f} terms each, "
        f"{vectors.size_bytes / 1e6:.1f} MB"
    )


def export(
    source: Annotated[Path, typer.Argument(help="Folder of vectors, or of an index.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Folder that is written; with ciff, a file.", show_default=False)],
    format: Annotated[str, typer.Option(help="anserini, ciff, opensearch or lsr-benchmark.", show_default=False)],
    scale: Annotated[float | None, typer.Option(help="Units per weight (anserini, ciff) [100].")] = None,
    topics: Annotated[str | None, typer.Option(help="A collection: its topics are written, too.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the topics [test].", show_default=False)] = None,
    encoder: Annotated[str | None, typer.Option(help="The encoder of the topics.")] = None,
) -> None:
    """Write vectors, or what an index holds, for Anserini, OpenSearch, Elasticsearch, CIFF readers, lsr-benchmark."""
    from ..indexing.export.run import export as run

    if (topics is None) != (encoder is None):
        raise ValueError("--topics needs --encoder, and the other way round")
    if split is not None and topics is None:
        raise ValueError(f"--split goes with --topics, got --split {split} alone")
    target = run(opened(source), output, format, scale=scale, queries=_queries(topics, split or "test", encoder))
    files = [file for file in [target, *target.rglob("*")] if file.is_file()]
    typer.echo(f"{target}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


def opened(path: str | Path) -> SparseVectors:
    """A folder's vectors, or those that an index holds."""
    from .. import open_index, open_vectors
    from ..indexing.engines import found_engine

    return open_vectors(path) if found_engine(path) is None else open_index(path).vectors()


def _queries(topics: str | None, split: str, encoder: str | None) -> Any:
    if topics is None:
        return None
    from .. import Splade, load_collection

    return Splade(encoder).query_encoder()(load_collection(topics).topics(split))
