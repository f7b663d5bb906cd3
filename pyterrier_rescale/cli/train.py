"""The verb ``train`` of the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from .vectors import Overwrite, Quiet

#: What ``--rescale`` takes, in the words of the help.
RESCALINGS = "none, a number (k), auto (k measured), calibrated (k and offsets measured) or learned"
Settings = Annotated[
    list[str] | None, Option("--set", help="Any other option of train(), NAME=VALUE; repeatable.", metavar="N=V")
]
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def train(
    backbone: Annotated[str, Argument(help="Hub name or folder of a masked LM.")],
    data: Annotated[str, Argument(help="A collection, or a .jsonl or .tsv file of pairs or triples, of texts or ids.")],
    output: Annotated[Path, Argument(help="Folder of the encoder.")],
    rescale: Annotated[str | None, Option(help=f"{RESCALINGS} [16].", metavar="SPEC")] = None,
    texts: Annotated[str | None, Option(help="Collection with the texts, if the data are ids.")] = None,
    columns: Annotated[
        str | None, Option(help="Columns of a file without a header, e.g. query,positive,negative.")
    ] = None,
    max_steps: Annotated[int | None, Option(help="Updates; default: by epochs.", min=1)] = None,
    epochs: Annotated[int | None, Option(help="Passes over the data [1].", min=1)] = None,
    batch_size: Annotated[int | None, Option(help="Queries per step [32].", min=1)] = None,
    learning_rate: Annotated[float | None, Option(help="Its peak [2e-5].")] = None,
    max_length: Annotated[int | None, Option(help="Tokens per text [256].", min=3)] = None,
    seed: Annotated[int | None, Option(help="Random seed [0].")] = None,
    queries: Annotated[str | None, Option(help="model, or static: inference-free [model].")] = None,
    loss: Annotated[str | None, Option(help="infonce, margin_mse or kl [infonce].")] = None,
    recipe: Annotated[str | None, Option(help="paper, splade-v3, opensearch-doc-v3 or sparseup.")] = None,
    config: Annotated[Path | None, Option(help="train_config.json of another run; options given here win.")] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a SPLADE encoder from a backbone, its head rescaled first; interrupted, the same command goes on.

    Defaults stand in brackets. All options of train() can be given with --set, such as --set monitor=warn.
    """
    from .. import load_collection
    from .. import train as run
    from ..evaluation.system import parse_rescale
    from ..heads.checkpoint import check_source
    from ..training import TrainConfig

    given = {
        "max_steps": max_steps, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "max_length": max_length, "seed": seed, "queries": queries, "loss": loss, "rescale": rescale, "recipe": recipe,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    options |= settings_of(settings, options)
    check_source(backbone, "model")  # before the data are read
    if "rescale" in options:
        options["rescale"] = parse_rescale(options["rescale"])
    source = data if texts is not None or Path(data).is_file() else load_collection(data)
    encoder = run(
        backbone, source, output, config=None if config is None else TrainConfig.from_json(config),
        texts=None if texts is None else load_collection(texts), columns=columns.split(",") if columns else None,
        overwrite=overwrite, verbose=not quiet, **options,
    )  # fmt: skip
    typer.echo(f"{encoder!r} saved in {output}")


def settings_of(items: list[str] | None, given: Iterable[str]) -> dict[str, Any]:
    """``NAME=VALUE`` items as arguments; a value is a number, list, true, false or none where it reads so, else a str.

    Raises:
        ValueError: for an item of another form, or an option that was ``given`` in another way.
    """
    options: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or name in given or name in options:
            raise ValueError(f"--set takes NAME=VALUE, and each option can be given once, got {item!r}")
        try:
            options[name] = _WORDS[value.lower()] if value.lower() in _WORDS else ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options
