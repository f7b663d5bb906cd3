"""Shell lines of the pages, checked without running them: commands, options and arguments that exist."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import typer

from pyterrier_rescale.cli.app import app

ROOT = Path(__file__).resolve().parent.parent.parent
# Commands of others, as a user types them at a fresh clone; what they are given is looked at where it is ours.
_OTHERS = {"pip", "uv", "pytest", "ruff", "bash", "git", "jupyter", "sphinx-build"}


def check_line(line: str) -> None:
    """Raise ValueError, or what the command's own parser raises, for a line that would fail."""
    for part in line.split("&&"):
        words = [word.removeprefix(".venv/bin/") for word in shlex.split(part, comments=True)]
        if words:
            _check_command(words)


def _check_command(words: list[str]) -> None:
    name, arguments = words[0], words[1:]
    if name == "pyterrier-rescale":
        _parse(arguments)
    elif name in ("python", "python3"):
        _check_python(arguments)
    elif name not in _OTHERS:
        raise ValueError(f"nobody knows the command {name!r}: let it be checked in tests/docs/commands.py, or mark it")
    _check_paths_and_extras(arguments if name in _OTHERS else [])


def _parse(arguments: list[str]) -> None:
    """The command's own parser, down to the verb's arguments; nothing is run."""
    command = typer.main.get_command(app)
    first = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    with command.make_context("pyterrier-rescale", [*arguments[:first], "demo"]) as context:
        verb = command.get_command(context, "".join(arguments[first : first + 1]))
        if verb is None:
            raise ValueError(f"pyterrier-rescale has no verb {arguments[first:first + 1]}")
        with verb.make_context(verb.name, arguments[first + 1 :], parent=context) as inner:
            if verb.name == "train" and inner.params["settings"]:
                _check_settings(inner.params["settings"])


def _check_settings(items: list[str]) -> None:
    """``--set NAME=VALUE`` of train: an option of that name and value."""
    from pyterrier_rescale.cli.train import settings_of
    from pyterrier_rescale.training import TrainConfig

    TrainConfig.from_dict(settings_of(items, ()))


def _check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "pyterrier_rescale"]:
        _parse(arguments[2:])
        return
    if arguments[:1] == ["-m"]:
        if arguments[1] not in ("venv", "pytest"):
            raise ValueError(f"python -m {arguments[1]} is not known here")
        return
    script = ROOT / arguments[0]
    if not script.is_file():
        raise ValueError(f"there is no {arguments[0]}")
    source = script.read_text(encoding="utf-8")
    unknown = [word for word in arguments[1:] if word.startswith("--") and f'"{word.split("=")[0]}"' not in source]
    if unknown:
        raise ValueError(f"{arguments[0]} has no option {', '.join(unknown)}")


def _check_paths_and_extras(arguments: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for word in arguments:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            unknown = set(extras[1].split(",")) - set(config["options.extras_require"])
            if unknown:
                raise ValueError(f"setup.cfg has no extra {', '.join(unknown)}")
        elif "/" in word and not word.startswith("-") and not (ROOT / word).exists():
            raise ValueError(f"there is no {word}")
