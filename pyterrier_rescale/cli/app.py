"""The command ``pyterrier-rescale``: the package's verbs at a terminal."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from .encode import ENCODE_EXAMPLE, EXPORT_EXAMPLE, encode, export, opened
from .search import SEARCH_EXAMPLE, expanded, search
from .teach import teach
from .train import RESCALINGS, train

app = typer.Typer(
    name="pyterrier-rescale",
    help="Make any masked-LM backbone a good SPLADE: audit its head, rescale it, train, index, search, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Model = Annotated[str, typer.Argument(help="Hub name or folder of a masked LM.", show_default=False)]
Collection = Annotated[
    str, typer.Argument(help="BEIR folder, 'docstrings', PyTerrier dataset name, or irds:<id>.", show_default=False)
]
RescaleOption = Annotated[
    str,
    typer.Option(
        "--rescale", help="A number (k), auto (k measured) or calibrated (k and offsets measured).", metavar="SPEC"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
MaxLength = Annotated[int, typer.Option(help="Tokens per text.", min=3)]
Engine = Annotated[str, typer.Option(help="terrier, pisa, exact, seismic or milvus.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Options of the command itself."""


@app.command(epilog="Example: pyterrier-rescale audit answerdotai/ModernBERT-base google-bert/bert-base-uncased")
def audit(
    models: Annotated[list[str], typer.Argument(help="Hub names or folders of masked LMs.", show_default=False)],
    texts: Annotated[str | None, typer.Option(help="A collection: measures activations on its documents.")] = None,
    n_texts: Annotated[
        int | None, typer.Option(help="Of so many of them [128].", min=2, max=512, show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the figure here (.png, .svg, .pdf).", callback=expanded)
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table here.", callback=expanded)] = None,
) -> None:
    """Measure heads: row norms, scores at the start, sinks; a verdict and a k for each."""
    from .. import audit as run
    from ..evaluation.system import short_names

    models = list(dict.fromkeys(models))
    names = short_names(models)
    if texts is None and n_texts is not None:
        raise ValueError("--n-texts goes with --texts: without a collection nothing is measured on texts")
    sample = None if texts is None else _some_texts(texts, n_texts or 128)
    result = run({name: name for name in models} if len(models) > 1 else models[0], sample)
    frame = result.to_frame()
    numbers = frame.drop(columns=["model", "verdict"]).T  # the verdict is a sentence: it follows in lines of its own
    numbers.columns = names
    typer.echo(numbers.to_string(float_format=lambda value: f"{value:.4g}"))
    verdicts = frame["verdict"].tolist()
    for name, verdict in zip(names, verdicts, strict=True):
        typer.echo(f"\n{name}: {verdict}")
    if csv is not None:
        frame.to_csv(csv, index=False)
    if plot is not None:
        result.plot().savefig(plot, dpi=150, bbox_inches="tight")
        typer.echo(f"figure: {plot}")


@app.command(epilog="Example: pyterrier-rescale rescale answerdotai/ModernBERT-base modernbert-k16 --rescale 16")
def rescale(
    model: Model,
    output: Annotated[
        Path, typer.Argument(help="Folder of the rescaled model.", show_default=False, callback=expanded)
    ],
    spec: RescaleOption = "16",
    texts: Annotated[str | None, typer.Option(help="A collection, for auto and calibrated.")] = None,
    n_texts: Annotated[
        int | None, typer.Option(help="Texts to calibrate on [256].", min=2, max=512, show_default=False)
    ] = None,
    bias: Annotated[bool, typer.Option(help="Divide the bias, too (fixed k only).")] = False,
) -> None:
    """Divide a head and save the model with its tokenizer: a backbone that stock tools load."""
    from .. import Splade, calibrate
    from .. import rescale as run
    from .._utils.files import whole_folder
    from ..evaluation.system import parse_rescale
    from ..heads.checkpoint import load_backbone, no_weight_bars
    from ..heads.hub_files import modules_of
    from ..heads.provenance import provenance

    value = parse_rescale(spec)
    if value is None or value == "learned":
        raise ValueError(f"--rescale must be a number, auto or calibrated here, got {spec!r}")
    measured = isinstance(value, str)
    if measured and texts is None:
        raise ValueError(f"--rescale {value} measures on texts: give a collection with --texts")
    fixed, others = {"--bias": bias}, {"--texts": texts, "--n-texts": n_texts}
    unused = [name for name, given in (fixed if measured else others).items() if given]
    if unused:
        right = "a number as --rescale" if measured else "--rescale auto or calibrated"
        raise ValueError(f"{' and '.join(unused)} can only be given with {right}, got --rescale {spec}")
    _refuse_existing(output)
    if measured:
        sample = _some_texts(texts, n_texts or 256)
        loaded = calibrate(model, sample, offset=value == "calibrated").apply(model)
    else:
        loaded = run(model, value, bias=bias)
    loaded, tokenizer = load_backbone(loaded)
    with whole_folder(output) as folder, no_weight_bars():
        if modules_of(model) is not None:  # an encoder is saved whole: pooling, lengths, queries of their own
            Splade(loaded, tokenizer=tokenizer, device="cpu").save_pretrained(folder)
        else:
            loaded.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    done = provenance(loaded)
    norm = done["mean_row_norm_before"]
    typer.echo(f"{output}: {done['method']}, k = {done['k']:.4g}; the mean row norm was {norm:.4g}")


app.command(
    epilog="Example: pyterrier-rescale train answerdotai/ModernBERT-base irds:beir/scifact splade "
    "--rescale 16 --max-steps 1000 --set warmup_steps=50"
)(train)


@app.command(
    epilog="Examples: pyterrier-rescale index splade irds:beir/scifact scifact.index; after "
    "`encode splade irds:beir/scifact scifact.vectors`: pyterrier-rescale index scifact.vectors scifact.index"
)
def index(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Folder or hub name of a SPLADE encoder, and a collection; or a folder of vectors; or an index.",
            metavar="ENCODER COLLECTION | VECTORS",
            show_default=False,
        ),
    ],
    path: Annotated[str, typer.Argument(help="Folder of the index, or a URL.", metavar="PATH", show_default=False)],
    engine: Engine = "terrier",
    scale: Annotated[float, typer.Option(help="Units per weight.")] = 100,
    batch_size: Annotated[int | None, typer.Option(help="Texts per batch [32].", min=1, show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Encode and index the documents of a collection; or index vectors, or what another index holds: no model."""
    from .. import Splade, load_collection, open_index
    from .._utils.paths import expand
    from ..indexing.build import origin
    from ..indexing.corpus import corpus_fingerprint
    from ..indexing.engines import engine_class

    if len(source) > 2:
        raise ValueError(f"give ENCODER COLLECTION PATH or VECTORS PATH, got {len(source) + 1} arguments")
    if len(source) == 1 and batch_size is not None:
        raise ValueError("--batch-size goes with an encoder: vectors are encoded already")
    if overwrite:
        target, mode = engine_class(engine).replacing(path if "://" in path else expand(path), scale=scale), "overwrite"
    else:
        target, mode = open_index(path, engine, scale=scale), "create"
        if target.built:  # before anything is encoded
            raise FileExistsError(f"there is an index at {path!r} already: --overwrite replaces it")
    if len(source) == 1:
        documents = opened(source[0])
        target.indexer(mode=mode, verbose=not quiet).index(documents)
    else:
        encoder, collection = source
        documents = load_collection(collection)
        splade = Splade(encoder, batch_size=batch_size or 32)
        made_from = origin(splade, corpus_fingerprint(documents.corpus, ("docno", splade.text_field)))
        indexer = target.indexer(mode=mode, verbose=not quiet, made_from=made_from)
        (splade.doc_encoder(scale=scale) >> indexer).index(documents.corpus(), batch_size=2048)
    typer.echo(f"{path}: {len(target):,} documents, {target.size_bytes / 1e6:.1f} MB")


app.command(epilog=ENCODE_EXAMPLE)(encode)
app.command(epilog=EXPORT_EXAMPLE)(export)
app.command(epilog=SEARCH_EXAMPLE)(search)


@app.command(
    epilog="Example: pyterrier-rescale compare irds:beir/scifact runs/scifact "
    "--backbone modernbert=answerdotai/ModernBERT-base --rescale none --rescale 16 --rescale calibrated"
)
def compare(
    collection: Collection,
    output: Annotated[Path, typer.Argument(help="Folder for tables, figures, runs, encoders.", show_default=False)],
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=MODEL or MODEL, repeatable; default: two small ones pretrained on the collection.", metavar="M"
        ),
    ] = None,
    rescale: Annotated[
        list[str] | None,
        typer.Option(help=f"{RESCALINGS}; repeatable [none, 16, calibrated].", metavar="SPEC"),
    ] = None,
    split: Annotated[str, typer.Option(help="Split that is scored.")] = "test",
    engine: Engine = "terrier",
    untrained: Annotated[bool, typer.Option(help="Score the encoders before training, too.")] = False,
    model_free: Annotated[bool, typer.Option(help="Score the word pieces without a model, too.")] = True,
    fusion: Annotated[bool, typer.Option(help="Score each trained system with BM25 added, too.")] = False,
    max_steps: Annotated[int, typer.Option(help="Training steps of each encoder.", min=1)] = 250,
    batch_size: Annotated[int, typer.Option(help="Queries per step.", min=2)] = 32,
    learning_rate: Annotated[float, typer.Option(help="5e-4 suits the small backbones, 2e-5 full-size ones.")] = 5e-4,
    lambda_q: Annotated[float | None, typer.Option(help="FLOPS weight, queries.")] = None,
    lambda_d: Annotated[float | None, typer.Option(help="FLOPS weight, documents.")] = None,
    ramp_steps: Annotated[int | None, typer.Option(help="Steps until full regularisation.")] = None,
    max_length: MaxLength = 128,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train backbones x rescalings alike, index each, and compare them with BM25 in one pt.Experiment."""
    from .. import load_collection
    from ..evaluation.comparison import compare as run
    from ..evaluation.demo import small_backbones
    from ..evaluation.system import named_backbones

    models = named_backbones(backbone or [])
    loaded = load_collection(collection)
    if not models:
        models = small_backbones(loaded, seed=seed, verbose=not quiet)
    training: dict[str, Any] = {
        "max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate, "monitor": "warn",
        "ramp_steps": ramp_steps or max(1, max_steps * 3 // 4),
    }  # fmt: skip
    training.update({k: v for k, v in {"lambda_q": lambda_q, "lambda_d": lambda_d}.items() if v is not None})
    comparison = run(
        loaded, models, output, rescalings=rescale or ["none", "16", "calibrated"], split=split, engine=engine,
        untrained=untrained, model_free=model_free, fusion=fusion, max_length=max_length, seed=seed, training=training,
        say=_clock(), command=_typed(), verbose=not quiet,
    )  # fmt: skip
    _show(comparison)


@app.command(epilog="Example: pyterrier-rescale demo --output demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for tables, figures, runs, encoders.")] = Path("demo"),
    docs: Annotated[int | None, typer.Option(help="Documents that are indexed [1500].", min=10)] = None,
    topics: Annotated[int | None, typer.Option(help="Topics that are scored [100].", min=2)] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each encoder [100].", min=1)] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Show the effect in minutes: small backbones, raw, divided and calibrated heads, on docstrings.

    No model or data are downloaded, only Terrier's jars (about 100 MB) at the first use.
    """
    from ..evaluation.demo import LESSON
    from ..evaluation.demo import demo as run

    sizes = {k: v for k, v in {"n_docs": docs, "n_topics": topics, "steps": steps}.items() if v is not None}
    _show(run(output, seed=seed, say=_clock(), command=_typed(), verbose=not quiet, **sizes), LESSON)


app.command(epilog="Example: pyterrier-rescale teach my-lecture")(teach)


def _typed() -> str:
    """This command as it was typed."""
    return shlex.join(["pyterrier-rescale", *sys.argv[1:]])


def _clock() -> Callable[[str], None]:
    """Print lines with the time since now in front."""
    start = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"{time.monotonic() - start:5.0f} s  {line}")

    return say


def _show(comparison: Any, lesson: str = "") -> None:
    from ..evaluation.figures import TABLE_KEY, markdown_table
    from ..evaluation.report import REPORT_FILE

    typer.echo(markdown_table(comparison.results))
    typer.echo(f"\n{TABLE_KEY}\n")
    if lesson:
        typer.echo(f"{lesson}\n")
    typer.echo(f"to look at: {comparison.output_dir / REPORT_FILE}; everything else is in {comparison.output_dir}/")


def _some_texts(collection: str, n: int) -> list[str]:
    """The texts of n non-blank documents of a collection, spread over all of it."""
    from .. import load_collection
    from .._utils.sampling import spread_of

    return spread_of((d["text"] for d in load_collection(collection).corpus() if d["text"].strip()), n)


def _refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"output {str(path)!r} exists and is not an empty folder: choose another")
