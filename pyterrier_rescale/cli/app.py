"""The command ``pyterrier-rescale``: the package's verbs at a terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from .. import __version__
from .score import score
from .search import search
from .train import RESCALINGS, Settings, settings_of, train
from .vectors import CollectionName, Engine, Overwrite, Quiet, encode, export, index

app = typer.Typer(
    name="pyterrier-rescale",
    help="Make any masked-LM backbone a good SPLADE: audit its head, rescale it, train, index, search, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for verb, example in (
    (train, "train answerdotai/ModernBERT-base irds:beir/scifact splade --rescale 16 --set warmup_steps=50"),
    (score, "score irds:beir/scifact cross-encoder/ms-marco-MiniLM-L6-v2 scored --negatives 8"),
    (encode, "encode splade irds:beir/scifact scifact.vectors --workers 2"),
    (index, "index splade irds:beir/scifact scifact.index (of vectors: index scifact.vectors scifact.index)"),
    (search, "search scifact.index splade 'vitamin D and bone density'"),
    (export, "export scifact.vectors scifact.ciff --format ciff"),
):
    app.command(epilog=f"Example: pyterrier-rescale {example}")(verb)

Texts = Annotated[str | None, Option(help="A collection: measure on its documents.")]
NumberOfTexts = Annotated[int, Option(help="Of so many of them.", min=2)]
Seed = Annotated[int, Option(help="Random seed.")]
_NOTEBOOK_STEPS = 400  # of pretraining, as in the notebooks
_TYPED = shlex.join(["pyterrier-rescale", *sys.argv[1:]])


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Options of the command itself."""


@app.command(epilog="Example: pyterrier-rescale audit answerdotai/ModernBERT-base google-bert/bert-base-uncased")
def audit(
    models: Annotated[list[str], Argument(help="Hub names or folders of masked LMs.")],
    texts: Texts = None,
    n_texts: NumberOfTexts = 128,
    plot: Annotated[Path | None, Option(help="Write the figure here (.png, .svg, .pdf).")] = None,
    csv: Annotated[Path | None, Option(help="Write the table here.")] = None,
) -> None:
    """Measure heads: row norms, scores at the start, sinks; a verdict and a k for each."""
    from .. import audit as run
    from .._utils.files import expand

    result = run({name: name for name in models} if len(models) > 1 else models[0], _sample(texts, n_texts))
    frame = result.to_frame()
    numbers = frame.drop(columns=["model", "verdict"]).T  # the verdict is a sentence: it follows in lines of its own
    numbers.columns = models
    typer.echo(numbers.to_string(float_format=lambda value: f"{value:.4g}"))
    for name, verdict in zip(models, frame["verdict"], strict=True):
        typer.echo(f"\n{name}: {verdict}")
    if csv is not None:
        frame.to_csv(expand(csv), index=False)
    if plot is not None:
        result.plot().savefig(expand(plot), dpi=150, bbox_inches="tight")
        typer.echo(f"figure: {plot}")


@app.command(epilog="Example: pyterrier-rescale rescale answerdotai/ModernBERT-base modernbert-k16 --rescale 16")
def rescale(
    model: Annotated[str, Argument(help="Hub name or folder of a masked LM.")],
    output: Annotated[Path, Argument(help="Folder of the rescaled model.")],
    spec: Annotated[
        str, Option("--rescale", help="A number (k), auto (k measured) or calibrated (k and offsets measured).")
    ] = "16",
    texts: Texts = None,
    n_texts: NumberOfTexts = 256,
    bias: Annotated[bool, Option("--bias", help="Divide the bias, too (fixed k only).")] = False,
) -> None:
    """Divide a head and save the model with its tokenizer: a backbone that stock tools load."""
    from .. import calibrate
    from .. import rescale as run
    from .._utils.files import whole_folder
    from ..evaluation.system import parse_rescale
    from ..heads.checkpoint import load_backbone, no_weight_bars
    from ..heads.hub_files import modules_of, save_tokenizer
    from ..heads.provenance import provenance

    value = parse_rescale(spec)
    measured = value in ("auto", "calibrated")
    if value in (None, "learned") or measured != (texts is not None) or measured and bias:
        raise ValueError(f"--rescale must be a number, or auto or calibrated with --texts, no --bias; got {spec!r}")
    with whole_folder(output) as folder, no_weight_bars():
        if measured:
            loaded = calibrate(model, _sample(texts, n_texts), offset=value == "calibrated").apply(model)
        else:
            loaded = run(model, value, bias=bias)
        loaded, tokenizer = load_backbone(loaded)
        if modules_of(model) is not None:  # an encoder is saved whole: pooling, lengths, queries of their own
            from .. import Splade

            Splade(loaded, tokenizer=tokenizer, device="cpu").save_pretrained(folder)
        else:
            loaded.save_pretrained(folder)
            save_tokenizer(folder, tokenizer)
    done = provenance(loaded)
    typer.echo(
        f"{output}: {done['method']}, k = {done['k']:.4g}; the mean row norm was {done['mean_row_norm_before']:.4g}"
    )


@app.command(
    epilog="Example: pyterrier-rescale compare irds:beir/scifact runs/scifact "
    "--backbone modernbert=answerdotai/ModernBERT-base --rescale none --rescale 16 --rescale calibrated"
)
def compare(
    collection: CollectionName,
    output: Annotated[Path, Argument(help="Folder for tables, figures, runs, encoders.")],
    backbone: Annotated[
        list[str] | None,
        Option(help="NAME=MODEL or MODEL, repeatable; default: two small ones pretrained on the collection."),
    ] = None,
    rescale: Annotated[
        list[str] | None, Option(help=f"{RESCALINGS}; repeatable [none, 16, calibrated].", metavar="SPEC")
    ] = None,
    split: Annotated[str, Option(help="Split that is scored.")] = "test",
    engine: Engine = "terrier",
    untrained: Annotated[bool, Option("--untrained", help="Score the encoders before training, too.")] = False,
    model_free: Annotated[bool, Option(help="Score the word pieces without a model, too.")] = True,
    min_label: Annotated[int, Option(help="Lower labels are not relevant.", min=1)] = 1,
    drop_own: Annotated[bool, Option(help="Leave topics that are documents out of their results.")] = True,
    max_steps: Annotated[int, Option(help="Training steps of each encoder.", min=1)] = 250,
    batch_size: Annotated[int, Option(help="Queries per step.", min=2)] = 32,
    learning_rate: Annotated[float, Option(help="5e-4 suits the small backbones, 2e-5 full-size ones.")] = 5e-4,
    max_length: Annotated[int, Option(help="Tokens per text.", min=3)] = 128,
    seed: Seed = 0,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train backbones x rescalings alike, index each, and compare them with BM25 in one pt.Experiment."""
    from .. import load_collection
    from ..evaluation.comparison import compare as run
    from ..evaluation.demo import small_backbones
    from ..evaluation.system import named_backbones

    loaded, models = load_collection(collection), named_backbones(backbone or [])
    given = {"max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate}
    others = settings_of(settings, [*given, "max_length", "seed", "rescale"])
    training = {"ramp_steps": max(1, max_steps * 3 // 4), **given, **others}
    comparison = run(
        loaded, models or small_backbones(loaded, seed=seed, verbose=not quiet), output,
        rescalings=rescale or ["none", "16", "calibrated"], split=split, engine=engine, untrained=untrained,
        model_free=model_free, min_label=min_label, drop_own=drop_own, max_length=max_length, seed=seed,
        training=training, overwrite=overwrite, say=_clock(), command=_TYPED, verbose=not quiet,
    )  # fmt: skip
    _show(comparison)


@app.command(epilog="Example: pyterrier-rescale demo --output demo")
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


@app.command(epilog="Example: pyterrier-rescale teach my-lecture")
def teach(
    directory: Annotated[Path, Argument(help="Folder that gets the notebooks.")] = Path("rescale-notebooks"),
    warm_only: Annotated[bool, Option("--warm-only", help="Copy nothing; warm the caches.")] = False,
    quiet: Quiet = False,
) -> None:
    """Copy the four notebooks and prepare what they use: docstrings, and a small backbone (about a minute)."""
    from .. import load_collection, small_backbone

    source = Path(__file__).resolve().parents[2] / "notebooks"
    if not warm_only and (not source.is_dir() or directory.exists() and any(directory.iterdir())):
        raise FileExistsError(
            f"directory {str(directory)!r} must be new, and the notebooks come with the project's source: clone it and "
            "install with `pip install -e '.[teach]'`, or use --warm-only"
        )
    typer.echo("docstrings: reading the installed packages (once, then kept)")
    texts = [document["text"] for document in load_collection("docstrings").corpus()]
    typer.echo("backbone: pretraining a small masked LM (once, then kept)")
    folder = small_backbone("modernbert", texts, steps=_NOTEBOOK_STEPS, verbose=not quiet)
    typer.echo(f"the backbone is in {folder}")
    if not warm_only:  # last: interrupted before, the same command goes on
        directory.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(source.glob("*.ipynb")):
            shutil.copyfile(notebook, directory / notebook.name)
        typer.echo(f"next: {shlex.join(['jupyter', 'lab', str(directory)])}, and begin with notebook 1")


def _clock() -> Callable[[str], None]:
    """Print lines with the time since now in front."""
    start = time.monotonic()
    return lambda line: typer.echo(f"{time.monotonic() - start:5.0f} s  {line}")


def _show(comparison: Any, *lesson: str) -> None:
    from ..evaluation.figures import TABLE_KEY, markdown_table

    folder = comparison.output_dir
    last = f"to look at: {folder / 'report.html'}; everything else is in {folder}/"
    typer.echo("\n\n".join([markdown_table(comparison.results), TABLE_KEY, *lesson, last]))


def _sample(collection: str | None, n: int) -> list[str] | None:
    """The texts of n non-blank documents of a collection, spread over all of it."""
    if collection is None:
        return None
    from .. import load_collection
    from .._utils.sampling import spread_of

    return spread_of((d["text"] for d in load_collection(collection).corpus() if d["text"].strip()), n)
