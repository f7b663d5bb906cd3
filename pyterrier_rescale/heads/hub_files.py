"""Files of a saved model, in a folder or behind a hub name, and where in a SparseEncoder's folder its masked LM is."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._utils.files import expand

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Files that nobody asks for by themselves: they come with the whole repository.
_OF_WHOLE = (".gitattributes", "README.md", "special_tokens_map.json")


class Module(NamedTuple):
    """A module of sentence-transformers: the full name of its class, and the folder of its files."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class's name."""
        return self.type.rsplit(".", 1)[-1]


def find_file(name: str | os.PathLike[str], file: str) -> Path | None:
    """A file of a folder or a hub name; ``None`` if there is none.

    ``FileNotFoundError`` if the hub cannot be reached and its cache does not know whether there is one.
    """
    name = check_source(name)
    if os.path.isdir(name):
        return Path(name, file) if Path(name, file).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError) as error:  # the hub has no such file, or cannot be reached
        config, known = (try_to_load_from_cache(name, one) for one in ("config.json", file))
        if not isinstance(config, str) or known is not None:  # not in the cache, or known to have no such file
            return None
        snapshot = Path(config).parent
        asked = (snapshot.parents[1] / ".no_exist" / snapshot.name).is_dir()  # for one file after the other
        if any((snapshot / one).exists() for one in (_OF_WHOLE[:1] if asked else _OF_WHOLE)):
            return None
        raise FileNotFoundError(
            f"only some files of {name!r} are in the cache of the hub, which cannot be reached: {file} was never "
            f"fetched, and without it the encoder may be another one. Fetch all of it while online: hf download {name}"
        ) from error


def check_source(name: str | os.PathLike[str], what: str = "model") -> str:
    """A folder, with ``~`` replaced, or a hub name that lies in the cache or that the hub knows.

    The hub is asked here, once: loading would ask again for a minute. ``FileNotFoundError`` for anything else.
    """
    path, name = expand(name), os.fspath(name)
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{what} folder {name!r} does not exist")
    from huggingface_hub import constants, model_info

    if not Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}").is_dir():
        try:
            model_info(name, timeout=10)
        except Exception as error:
            raise FileNotFoundError(
                f"{name!r} is neither a folder here nor a model that the hub gives (no network, or no such name): "
                f"{(str(error) or type(error).__name__).splitlines()[0]}"
            ) from error
    return name


def read_json(name: str | os.PathLike[str], file: str) -> Any:
    """The content of a JSON file of a folder or a hub name; ``None`` if there is none."""
    found = find_file(name, file)
    if found is None:
        return None
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{found} is not JSON ({error}): the file is damaged; save or fetch it again") from error


def modules_of(name: str | os.PathLike[str]) -> dict[str, list[Module]] | None:
    """The modules that documents and queries go through, in a SparseEncoder's folder; ``None`` for other folders."""
    modules = read_json(name, "modules.json")
    if modules is None:
        return None
    listed = [Module(str(module.get("type")), str(module.get("path", ""))) for module in modules]
    if [module.kind for module in listed] != ["Router"]:
        return {"document": listed, "query": listed}
    router = read_json(name, "router_config.json") or read_json(name, "config.json") or {}
    types, structure = router.get("types", {}), router.get("structure", {})
    return {
        side: [Module(str(types.get(path)), "" if path == "." else path) for path in structure.get(side, [])]
        for side in ("document", "query")
    }


def folder_of(name: str | os.PathLike[str], path: str) -> str:
    """A folder inside a folder, or inside a hub name's repository, of which it is fetched whole."""
    name = check_source(name)
    if path and not os.path.isdir(name):
        from huggingface_hub import snapshot_download

        name = snapshot_download(name, allow_patterns=[f"{path}/*"])
    return os.path.join(name, path) if path else name


def model_folder(name: str | os.PathLike[str]) -> str:
    """Where the masked LM of documents lies: ``name`` itself, or the folder inside it that its router names."""
    modules = (modules_of(name) or {}).get("document")
    return folder_of(name, modules[0].path if modules else "")


def save_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> None:
    """Save a tokenizer that pads on the right, by a class that transformers 4 knows, too."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length or tokenizer.model_max_length
    tokenizer.padding_side = "right"  # as we pad: on the left, a text's positions would follow its batch mates
    tokenizer.save_pretrained(path)
    config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # which transformers 4 does not know
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = tokenizer.model_input_names  # where they are not named, its defaults are others
    if hasattr(tokenizer, "backend_tokenizer"):
        first = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
        config |= {key: first[key] for key in ("add_prefix_space",) if key in first}
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
