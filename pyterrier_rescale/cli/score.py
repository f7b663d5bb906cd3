"""The verb ``score`` of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .vectors import Overwrite, Quiet


def score(
    pairs: Annotated[str, Argument(help="A collection, or a file of pairs or triples, of texts or ids.")],
    scorer: Annotated[str, Argument(help="Hub name or folder of a cross-encoder or a SPLADE encoder.")],
    output: Annotated[Path, Argument(help="Folder of rows.jsonl, which train reads.")],
    negatives: Annotated[int, Option(help="Hard negatives that are mined for each pair first.", min=0)] = 0,
    retriever: Annotated[str, Option(help="What finds them: bm25, or an encoder's name or folder.")] = "bm25",
    texts: Annotated[str | None, Option(help="Collection with the texts, if the pairs are ids.")] = None,
    columns: Annotated[str | None, Option(help="Columns of a file without a header.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a teacher's scores of training pairs, for losses that distil; interrupted, the same command goes on."""
    from .. import load_collection
    from ..training import score as run

    file = run(
        pairs, scorer, output, texts=None if texts is None else load_collection(texts),
        columns=columns.split(",") if columns else None, negatives=negatives, retriever=retriever,
        overwrite=overwrite, verbose=not quiet,
    )  # fmt: skip
    typer.echo(f"{file}: train BACKBONE {file} OUTPUT --loss margin_mse or kl")
