"""The verb ``teach`` of the command line: notebooks to work in, and caches that are warm before class."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

#: The pretraining steps of the backbone that the notebooks use.
NOTEBOOK_STEPS = 400


def teach(
    directory: Annotated[Path, typer.Argument(help="Folder that gets the notebooks.")] = Path("rescale-notebooks"),
    warm_only: Annotated[bool, typer.Option("--warm-only", help="Copy nothing; warm the caches.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Copy the four notebooks and prepare what they use: docstrings, and a small backbone (about a minute)."""
    from .. import load_collection, small_backbone

    if not warm_only:
        source = notebooks_folder()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"directory {str(directory)!r} exists and is not an empty folder: choose another")
        directory.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(source.glob("*.ipynb")):
            shutil.copyfile(notebook, directory / notebook.name)
            typer.echo(f"{directory / notebook.name}")
    typer.echo("docstrings: reading the installed packages (cached)")
    texts = [document["text"] for document in load_collection("docstrings").corpus()]
    typer.echo("backbone: pretraining a small masked LM (cached)")
    folder = small_backbone("modernbert", texts, steps=NOTEBOOK_STEPS, verbose=not quiet)
    typer.echo(f"ready; the backbone is in {folder}")


def notebooks_folder() -> Path:
    """The notebooks of the checkout that this package runs from.

    Raises:
        FileNotFoundError: if it was installed without them.
    """
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    if not folder.is_dir():
        raise FileNotFoundError(
            "the notebooks come with the project's source, not with an installed wheel: clone it and install with "
            "`pip install -e '.[teach]'`, or use --warm-only"
        )
    return folder
