"""The command ``pyterrier-rescale``: the package's verbs at a terminal."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .. import __version__
from .train import Quiet, compare, demo, score, small_backbone, train
from .vectors import encode, export, index, search

app = typer.Typer(
    name="pyterrier-rescale",
    help="Make any masked-LM backbone a good SPLADE: audit its head, rescale it, train, index, search, compare.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Texts = Annotated[str | None, Option(help="Measure on the documents of this collection.")]
NumberOfTexts = Annotated[int, Option(help="Number of documents that are measured.", min=2)]
_NOTEBOOKS = Path(__file__).resolve().parent.parent / "teaching"
_NOTEBOOK_STEPS = 400  # of pretraining, as in the notebooks


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    traceback: Annotated[bool, Option("--traceback", help="Show where an error occurred.")] = False,
) -> None:
    """Options of the command itself."""


def audit(
    models: Annotated[list[str], Argument(help="Hub names or folders of masked LMs.")],
    texts: Texts = None,
    n_texts: NumberOfTexts = 128,
    plot: Annotated[Path | None, Option(help="Write the figure here (.png, .svg, .pdf).")] = None,
    csv: Annotated[Path | None, Option(help="Write the table here.")] = None,
    every: Annotated[bool, Option("--all", help="Show all numbers, not only the main ones.")] = False,
) -> None:
    """Measure heads: row norms, scores at the start, sinks; a verdict and a k for each."""
    from .. import audit as run
    from .._utils.files import expand

    sample = None if texts is None else _sample(texts, n_texts)
    result = run({name: name for name in models} if len(models) > 1 else models[0], sample)
    frame = result.to_frame()
    typer.echo(result)
    if every:
        numbers = frame.set_index("model").drop(columns="verdict").T
        typer.echo(f"\n{numbers.to_string(float_format='{:.4g}'.format)}")
    if csv is not None:
        frame.to_csv(expand(csv), index=False)
    if plot is not None:
        result.plot().savefig(expand(plot), dpi=150, bbox_inches="tight")
        typer.echo(f"figure: {plot}")


def rescale(
    model: Annotated[str, Argument(help="Hub name or folder of a masked LM.")],
    output: Annotated[Path, Argument(help="Folder of the rescaled model.")],
    spec: Annotated[str, Option("--rescale", help="k, auto (k measured) or calibrated (k and offsets).")] = "16",
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
    done = "{method}, k = {k:.4g}; the mean row norm was {mean_row_norm_before:.4g}".format(**provenance(loaded))
    typer.echo(f"{output}: {done}")


def teach(
    directory: Annotated[Path, Argument(help="Folder that gets the notebooks.")] = Path("rescale-notebooks"),
    lecturer: Annotated[bool, Option("--lecturer", help="Also copy solutions, slides and an assignment.")] = False,
    warm_only: Annotated[bool, Option("--warm-only", help="Only fill the caches; copy nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Copy five notebooks; prepare docstrings, a small backbone (about a minute) and Terrier for them."""
    from .. import load_collection, small_backbone
    from .._utils.java import start_java

    if not warm_only and directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"directory {str(directory)!r} must be new or empty; --warm-only copies nothing")
    typer.echo("docstrings: reading the installed packages (once, then kept)")
    texts = [document["text"] for document in load_collection("docstrings").corpus()]
    typer.echo("backbone: pretraining a small masked LM (once, then kept)")
    folder = small_backbone("modernbert", texts, steps=_NOTEBOOK_STEPS, verbose=not quiet)
    typer.echo(f"the backbone is in {folder}")
    if not warm_only:  # interrupted before, the same command continues
        unwanted = () if lecturer else ("lecturer",)
        shutil.copytree(_NOTEBOOKS, directory, ignore=shutil.ignore_patterns(*unwanted), dirs_exist_ok=True)
        typer.echo(f"next: {shlex.join(['jupyter', 'lab', str(directory)])}, and begin with notebook 1")
    start_java()  # last: without a network all but BM25 works


def _sample(collection: str, n: int) -> list[str]:
    """The texts of n non-blank documents of a collection, spread over all of it."""
    from .. import load_collection
    from .._utils.sampling import spread

    texts = [document["text"] for document in load_collection(collection).corpus() if document["text"].strip()]
    return [texts[place] for place in spread(len(texts), n)]


for verb, example in (
    (audit, "audit answerdotai/ModernBERT-base google-bert/bert-base-uncased --texts irds:beir/scifact"),
    (rescale, "rescale answerdotai/ModernBERT-base modernbert-k16 --rescale 16"),
    (small_backbone, "small-backbone modernbert docstrings my-backbone"),
    (train, "train answerdotai/ModernBERT-base irds:beir/scifact splade --rescale 16 --set warmup_steps=50"),
    (score, "score irds:beir/scifact cross-encoder/ms-marco-MiniLM-L6-v2 scored --negatives 8"),
    (encode, "encode splade irds:beir/scifact scifact.vectors --workers 2"),
    (index, "index splade irds:beir/scifact scifact.index (of vectors: index scifact.vectors scifact.index)"),
    (search, "search scifact.index splade 'vitamin D and bone density' --texts irds:beir/scifact"),
    (export, "export scifact.vectors scifact.ciff --format ciff"),
    (compare, "compare irds:beir/scifact runs/scifact --backbone modernbert=answerdotai/ModernBERT-base "
              "--rescale none --rescale 16 --rescale calibrated"),
    (demo, "demo --output demo"),
    (teach, "teach my-lecture"),
):  # fmt: skip
    app.command(epilog=f"Example: pyterrier-rescale {example}")(verb)
