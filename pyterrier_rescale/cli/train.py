"""The verb ``train`` of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

#: What ``--rescale`` takes, in the words of the help.
RESCALINGS = "none, a number (k), auto (k measured), calibrated (k and offsets measured) or learned"
_MONITORS = {"stop": True, "warn": "warn", "off": False}


def train(
    backbone: Annotated[str, typer.Argument(help="Hub name or folder of a masked LM.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            help="A collection, or a .jsonl, .tsv or .csv file of pairs or triples, of texts or ids.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the encoder.", show_default=False)],
    rescale: Annotated[str | None, typer.Option(help=f"{RESCALINGS} [16].", metavar="SPEC")] = None,
    texts: Annotated[str | None, typer.Option(help="Collection with the texts, if the data are ids.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of a file without a header, e.g. query,positive,negative.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Updates; default: by epochs.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data [1].", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Queries per step [32].", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak [2e-5].")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text [256].", min=3)] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed [0].")] = None,
    queries: Annotated[str | None, typer.Option(help="model, or static: inference-free [model].")] = None,
    query_pooling: Annotated[str | None, typer.Option(help="max or sum; default: as documents.")] = None,
    shift: Annotated[
        float | None, typer.Option(help="Logits are lowered by so much.", rich_help_panel="Head")
    ] = None,
    position_top_k: Annotated[
        int | None, typer.Option(help="Logits of each position that count.", min=1, rich_help_panel="Head")
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="case: variants of a term are one.", rich_help_panel="Head")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="infonce, margin_mse or kl.", rich_help_panel="Loss")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the softmax [1].", rich_help_panel="Loss")] = None,
    regularizer: Annotated[
        str | None, typer.Option(help="flops, l1, df_flops or anti_zero.", rich_help_panel="Loss")
    ] = None,
    lambda_q: Annotated[float | None, typer.Option(help="Its weight, queries.", rich_help_panel="Loss")] = None,
    lambda_d: Annotated[float | None, typer.Option(help="Its weight, documents.", rich_help_panel="Loss")] = None,
    ramp_steps: Annotated[
        int | None, typer.Option(help="Updates until its full weight.", rich_help_panel="Loss")
    ] = None,
    monitor: Annotated[
        str | None, typer.Option(help="stop, warn or off: what a collapse does.", rich_help_panel="Run")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run that is there, or refuse.", rich_help_panel="Run")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Start anew in a used folder.", rich_help_panel="Run")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="train_config.json of another run; options given here win.", rich_help_panel="Run"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option of train(), NAME=VALUE.", metavar="N=V", rich_help_panel="Run"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.", rich_help_panel="Run")] = False,
) -> None:
    """Train a SPLADE encoder from a backbone, its head rescaled first. Defaults stand in brackets."""
    from .. import load_collection
    from .. import train as run
    from ..evaluation.system import parse_rescale
    from ..training import TrainConfig

    given: dict[str, Any] = {
        "max_steps": max_steps, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "max_length": max_length, "seed": seed, "loss": loss, "temperature": temperature, "regularizer": regularizer,
        "lambda_q": lambda_q, "lambda_d": lambda_d, "ramp_steps": ramp_steps,
        "queries": queries, "query_pooling": query_pooling,
        "shift": shift, "position_top_k": position_top_k, "fold": fold,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    options.update(_settings(settings or []))
    if rescale is not None:
        options["rescale"] = parse_rescale(rescale)
    if monitor is not None:
        if monitor not in _MONITORS:
            raise ValueError(f"--monitor must be one of {', '.join(_MONITORS)}, got {monitor!r}")
        options["monitor"] = _MONITORS[monitor]
    source = data if texts is not None or Path(data).is_file() else load_collection(data)
    encoder = run(
        backbone, source, output, config=None if config is None else TrainConfig.from_json(config), resume=resume,
        texts=None if texts is None else load_collection(texts), columns=columns.split(",") if columns else None,
        overwrite=overwrite, verbose=not quiet, **options,
    )  # fmt: skip
    typer.echo(f"{encoder!r} saved in {output}")


def _settings(items: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` items as arguments; values are JSON where they read so, else strings."""
    import json

    options = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE, got {item!r}")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    return options
