"""The verbs that train: ``train``, ``score``, ``small-backbone``, ``compare`` and ``demo``."""

from __future__ import annotations

import ast
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from .vectors import CollectionName, Engine, Overwrite, Quiet

Seed = Annotated[int, Option(help="Random seed.")]
Settings = Annotated[list[str] | None, Option("--set", help="Another option of train(); repeatable.", metavar="N=V")]
_RESCALINGS = "none, a number (k), auto (k measured), calibrated (k and offsets measured) or learned"
_TYPED = shlex.join(["pyterrier-rescale", *sys.argv[1:]])


def train(
    backbone: Annotated[str, Argument(help="Hub name or folder of a masked LM.")],
    data: Annotated[str, Argument(help="A collection, or a .jsonl or .tsv file of pairs or triples, of texts or ids.")],
    output: Annotated[Path, Argument(help="Folder of the encoder.")],
    rescale: Annotated[str | None, Option(help=f"{_RESCALINGS} [16; of an encoder none].", metavar="SPEC")] = None,
    texts: Annotated[str | None, Option(help="Collection with the texts, if the data are ids.")] = None,
    columns: Annotated[str | None, Option(help="Columns of a file without header: query,positive,negative.")] = None,
    max_steps: Annotated[int | None, Option(help="Training steps; default: by epochs.", min=1)] = None,
    epochs: Annotated[int | None, Option(help="Passes over the data [1].", min=1)] = None,
    batch_size: Annotated[int | None, Option(help="Queries per step [32].", min=1)] = None,
    learning_rate: Annotated[float | None, Option(help="Peak of the learning rate [2e-5].")] = None,
    max_length: Annotated[int | None, Option(help="Tokens per text [256].", min=3)] = None,
    seed: Annotated[int | None, Option(help="Random seed [0].")] = None,
    queries: Annotated[str | None, Option(help="model, or static: queries without a model [model].")] = None,
    loss: Annotated[str | None, Option(help="infonce, margin_mse or kl [infonce].")] = None,
    recipe: Annotated[str | None, Option(help="paper, splade-v3, opensearch-doc-v3 or sparseup.")] = None,
    config: Annotated[Path | None, Option(help="train_config.json of another run; options given here win.")] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Rescale the head of a backbone, then train a SPLADE encoder; if interrupted, repeat the command to continue.

    Defaults are in brackets. All options of train() can be given with --set, such as --set monitor=warn.
    """
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
    encoder = run(
        backbone, data, output, config=None if config is None else TrainConfig.from_json(config),
        texts=texts, columns=columns.split(",") if columns else None, overwrite=overwrite, verbose=not quiet, **options,
    )  # fmt: skip
    typer.echo(f"{encoder!r} saved in {output}")


def score(
    pairs: Annotated[str, Argument(help="A collection, or a file of pairs or triples, of texts or ids.")],
    scorer: Annotated[str, Argument(help="Hub name or folder of a cross-encoder or a SPLADE encoder.")],
    output: Annotated[Path, Argument(help="Folder that train reads.")],
    negatives: Annotated[int, Option(help="Hard negatives to mine for each pair first.", min=0)] = 0,
    retriever: Annotated[str, Option(help="Retriever that finds them: bm25, or an encoder's name or folder.")] = "bm25",
    texts: Annotated[str | None, Option(help="Collection with the texts, if the pairs are ids.")] = None,
    columns: Annotated[str | None, Option(help="Columns of a file without a header.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a teacher's scores of training pairs, for losses that distil; if interrupted, repeat the command."""
    from ..training import score as run

    run(
        pairs, scorer, output, texts=texts, columns=columns.split(",") if columns else None,
        negatives=negatives, retriever=retriever, overwrite=overwrite, verbose=not quiet,
    )  # fmt: skip
    typer.echo(f"scored: train BACKBONE {output} OUTPUT --loss margin_mse or kl")


def small_backbone(
    family: Annotated[str, Argument(help="bert, modernbert, roberta; or minilm: a pretrained body that gets a head.")],
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
        made = run(family, documents, verbose=not quiet, **({} if steps is None else {"steps": steps}))
        shutil.copytree(made, folder, dirs_exist_ok=True)
    typer.echo(f"{output}: {family} of {len(documents)} texts; next: pyterrier-rescale audit {output} --texts {texts}")


def compare(
    collection: CollectionName,
    output: Annotated[Path, Argument(help="Folder for tables, figures, runs, encoders.")],
    backbone: Annotated[
        list[str] | None, Option(help="NAME=MODEL or an encoder's folder; repeatable [two small ones].")
    ] = None,
    rescale: Annotated[
        list[str] | None, Option(help=f"{_RESCALINGS}; repeatable [none, 16, calibrated].", metavar="SPEC")
    ] = None,
    split: Annotated[str, Option(help="Split that is scored.")] = "test",
    engine: Engine = "terrier",
    untrained: Annotated[bool, Option("--untrained", help="Score the encoders before training, too.")] = False,
    model_free: Annotated[bool, Option(help="Score the word pieces without a model, too.")] = True,
    min_label: Annotated[int, Option(help="Lowest label that means relevant.", min=1)] = 1,
    drop_own: Annotated[bool, Option(help="Drop a topic's own document from its results.")] = True,
    max_steps: Annotated[int, Option(help="Training steps of each encoder.", min=1)] = 250,
    batch_size: Annotated[int, Option(help="Queries per step.", min=2)] = 32,
    learning_rate: Annotated[float, Option(help="5e-4 suits the small backbones, 2e-5 full-size ones.")] = 5e-4,
    max_length: Annotated[int, Option(help="Tokens per text.", min=3)] = 128,
    seed: Seed = 0,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train each backbone with each rescaling, index, and compare with BM25 in one pt.Experiment."""
    from .. import compare as run
    from .. import load_collection
    from ..evaluation.demo import small_backbones
    from ..evaluation.system import named_backbones, parse_rescale
    from ..indexing.engines import engine_class

    loaded, models = load_collection(collection), named_backbones(backbone or [])
    rescalings = [parse_rescale(one) for one in rescale or ["none", "16", "calibrated"]]
    loaded.check_split(split)  # before backbones are pretrained
    engine_class(engine)
    given = {"max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate}
    others = settings_of(settings, [*given, "max_length", "seed", "rescale"])
    training = {"ramp_steps": max(1, max_steps * 3 // 4), **given, **others}
    comparison = run(
        loaded, models or small_backbones(loaded, seed=seed, verbose=not quiet), output,
        rescalings=rescalings, split=split, engine=engine, untrained=untrained,
        model_free=model_free, min_label=min_label, drop_own=drop_own, max_length=max_length, seed=seed,
        training=training, overwrite=overwrite, say=_clock(), command=_TYPED, verbose=not quiet,
    )  # fmt: skip
    _show(comparison)


def demo(
    output: Annotated[Path, Option(help="Folder for tables, figures, runs, encoders.")] = Path("demo"),
    docs: Annotated[int, Option(help="Documents that are indexed.", min=10)] = 1500,
    topics: Annotated[int, Option(help="Topics that are scored.", min=2)] = 100,
    steps: Annotated[int, Option(help="Training steps of each encoder.", min=1)] = 100,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show the effect in minutes: small backbones, raw, divided and calibrated heads, on docstrings.

    No model or data are downloaded, only Terrier's jars (about 100 MB) at the first use.
    """
    from ..evaluation.demo import LESSON
    from ..evaluation.demo import demo as run

    comparison = run(
        output, n_docs=docs, n_topics=topics, steps=steps, seed=seed, overwrite=overwrite, say=_clock(),
        command=_TYPED, verbose=not quiet,
    )  # fmt: skip
    _show(comparison, LESSON)


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
        options[name] = value
        with suppress(ValueError, SyntaxError):
            options[name] = ast.literal_eval(value.title() if value.lower() in ("true", "false", "none") else value)
    return options


def _clock() -> Callable[[str], None]:
    """Print lines with the time since now in front."""
    start = time.monotonic()
    return lambda line: typer.echo(f"{time.monotonic() - start:5.0f} s  {line}")


def _show(comparison: Any, *lesson: str) -> None:
    from ..evaluation.figures import TABLE_KEY, markdown_table

    folder = comparison.output_dir
    last = f"to look at: {folder / 'report.html'}; everything else is in {folder}/"
    told = "\n".join(comparison.conclusion)
    typer.echo("\n\n".join([markdown_table(comparison.results), TABLE_KEY, *lesson, told, last]))
