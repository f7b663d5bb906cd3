"""The verb ``teach`` of the command line: notebooks to work in, and caches that are warm before class."""

from __future__ import annotations

import shlex
import shutil
import sys
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

    source = None if warm_only else notebooks_folder()
    if not warm_only and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"directory {str(directory)!r} exists and is not an empty folder: open what is there, or choose another"
        )
    typer.echo("docstrings: reading the installed packages (once, then kept)")
    texts = [document["text"] for document in load_collection("docstrings").corpus()]
    typer.echo("backbone: pretraining a small masked LM (once, then kept)")
    folder = small_backbone("modernbert", texts, steps=NOTEBOOK_STEPS, verbose=not quiet)
    typer.echo(f"the backbone is in {folder}")
    if source is None:
        return
    directory.mkdir(parents=True, exist_ok=True)  # last: interrupted before, the same command goes on
    for notebook in sorted(source.glob("*.ipynb")):
        shutil.copyfile(notebook, directory / notebook.name)
        typer.echo(f"{directory / notebook.name}")
    typer.echo(f"next: {_how_to_open(directory)}")


def _how_to_open(directory: Path) -> str:
    """The command that opens the notebooks, with its folder where the shell would find none, or another one."""
    beside = shutil.which("jupyter", path=str(Path(sys.executable).parent))
    if beside is None:
        return f"open {directory} where notebooks run; `pip install -e '.[teach]'` brings JupyterLab"
    command = "jupyter" if shutil.which("jupyter") == beside else beside
    return f"{shlex.join([command, 'lab', str(directory)])}, and begin with notebook 1"


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
