"""What must hold before the first step: of the data, and of the output folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from .._utils.paths import expand
from .config import CONFIG_FILE, TrainConfig
from .data.rows import Facts, Rows
from .distributed import world
from .losses import LOSSES


def check_rows(rows: Rows, config: TrainConfig) -> int:
    """Check that the rows suit the loss and fill a batch.

    Returns:
        n, the number of hard negatives per query in every row that training will use.

    Raises:
        ValueError: if there are too few rows, negatives or teacher scores, or nothing to learn from them.
    """
    loss = LOSSES[config.loss]
    least, most, first = rows.facts.negatives
    wanted = least if config.negatives is None else config.negatives
    if wanted > least:
        raise ValueError(f"negatives must be at most {least}, the number that row {first} of data has, got {wanted}")
    if config.negatives is None and least < most:
        warnings.warn(
            f"rows of data have {least} to {most} negatives: {least} are used of each (option negatives=)",
            stacklevel=3,
        )
    if wanted < loss.least_negatives:
        raise ValueError(
            f"loss={config.loss!r} needs at least {loss.least_negatives} negative(s) per query, got {wanted}"
        )
    if loss.needs_scores and rows.facts.unscored is not None:
        raise ValueError(f"loss={config.loss!r} needs teacher scores, and row {rows.facts.unscored} of data has none")
    _check_size(len(rows), config, wanted)
    _check_texts(rows.facts, config, wanted)
    return wanted


def _check_size(size: int, config: TrainConfig, negatives: int) -> None:
    processes = world()[1]
    needed = config.batch_size * processes
    if size < needed:
        raise ValueError(
            f"batch_size must be at most {size // processes}, the number of training rows"
            f"{f' divided by {processes} processes' if processes > 1 else ''}, got {config.batch_size}"
        )
    if config.loss == "infonce" and not negatives and needed < 2:
        raise ValueError(
            f"batch_size must be at least 2 for loss='infonce' without hard negatives, got {config.batch_size}: a "
            "batch of one document has nothing to tell it from"
        )


def _check_texts(facts: Facts, config: TrainConfig, negatives: int) -> None:
    if config.loss == "infonce" and not negatives and min(len(facts.queries), len(facts.positives)) == 1:
        what = "documents" if len(facts.positives) == 1 else "queries"
        raise ValueError(
            f"the {what} of data are all the same text: there is nothing to learn from {facts.count} such pairs"
        )
    if negatives and not facts.contrasting:
        raise ValueError("every negative of data is the same text as its positive: check the columns")
    if facts.identical:
        raise ValueError("the query and the document of every pair of data are the same text: check the columns")


def prepare_output(output_dir: str | os.PathLike[str], config: TrainConfig, resume: bool, overwrite: bool) -> Path:
    """Create the output folder, or find in it the run to go on with.

    Raises:
        OSError: if the folder cannot be written.
        FileExistsError: if it holds another encoder or run that would be lost.
        ValueError: if it is to be resumed with other options.
    """
    path = expand(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"output_dir must be a folder, {str(path)!r} is a file")
    begun = (path / CONFIG_FILE).exists()
    if resume and begun:
        differences = config.differences(TrainConfig.from_json(path / CONFIG_FILE))
        if differences:
            raise ValueError(
                f"{str(path)!r} was begun with other options, so it cannot be resumed with {'; '.join(differences)}"
            )
    elif not overwrite and (begun or (path / "modules.json").exists()):
        going_on = "resume=True goes on with it, " if begun else ""
        raise FileExistsError(
            f"output_dir {str(path)!r} holds {'a training run' if begun else 'an encoder'} already: {going_on}"
            "overwrite=True starts anew, or choose another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write_probe"
        probe.write_text("", encoding="utf-8")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(f"output_dir {str(path)!r} cannot be written: {error}") from error
    return path
