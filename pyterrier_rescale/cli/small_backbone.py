"""The verb ``small-backbone`` of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .vectors import Quiet


def small_backbone(
    kind: Annotated[str, Argument(help="bert, modernbert, roberta; or minilm: a pretrained body that gets a head.")],
    texts: Annotated[str, Argument(help="A collection: pretrain on its documents.")],
    output: Annotated[Path, Argument(help="Folder of the masked LM and its tokenizer.")],
    steps: Annotated[int | None, Option(help="Training steps [800, minilm 600].", min=1)] = None,
    quiet: Quiet = False,
) -> None:
    """Pretrain a small masked LM on the texts of a collection, in minutes, without a hub."""
    from .. import load_collection
    from .. import small_backbone as run
    from .._utils.files import whole_folder

    with whole_folder(output) as folder:
        documents = [document["text"] for document in load_collection(texts).corpus()]
        made = run(kind, documents, verbose=not quiet, **({} if steps is None else {"steps": steps}))
        shutil.copytree(made, folder, dirs_exist_ok=True)
    typer.echo(f"{output}: a {kind} of {len(documents)} texts; next: pyterrier-rescale audit {output} --texts {texts}")
