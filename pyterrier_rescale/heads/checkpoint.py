"""Load a masked LM or causal language model, and its tokenizer; every failure names the checkpoint and its cause."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_choice
from .decoder import check_attention, find_head
from .hub_files import check_source, find_file, model_folder, modules_of, read_json
from .provenance import provenance, record
from .ties import keep_dead_bias_in_step

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_CAUSAL = {"causal": True, "bidirectional": False}
_OF_A_TOKENIZER = re.compile("token|vocab|piece")  # names of its files


def load_backbone(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: Any = None,
    *,
    dtype: Any = None,
    attention: str | None = None,
    need_tokenizer: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return a masked LM, or where its type has none a causal language model, and its tokenizer.

    A loaded model is returned as it is, or a copy where ``attention`` (``"causal"`` or ``"bidirectional"``, of a
    language model) is not what ``config.is_causal`` says: that is set, so that a saved folder keeps it. The tokenizer
    is by default the model's own, the dtype float32.

    Raises:
        FileNotFoundError: if the folder does not exist or a hub name cannot be reached.
        TypeError: if ``model`` is of another type or holds no masked-LM or language-model head.
        ValueError: if no tokenizer is found, or files are damaged.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

    if isinstance(model, PreTrainedModel):
        loaded, name = model, model.config.name_or_path
    elif isinstance(model, (str, os.PathLike)):
        name = model_folder(model)
        loaded = load_model(name, dtype)
    else:
        raise TypeError(
            f"model must be a hub name, a folder or a PreTrainedModel, got a {type(model).__name__} (of a Splade give "
            "its folder or .encoder.model; of a PeftModel what merge_and_unload() returns)"
        )
    if tokenizer is None and need_tokenizer:
        if not name:
            raise ValueError("tokenizer must be given where model is a loaded PreTrainedModel without a name")
        tokenizer = name
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(tokenizer)
    if tokenizer is not None and tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, whatever it is
    refuse_lost_bias(loaded)
    causal = isinstance(loaded, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(loaded.config), ()))
    of = "" if causal else f" (of a {type(loaded).__name__}, which is no causal language model)"
    check_choice(f"attention{of}", attention, (None, *_CAUSAL) if causal else (None,))
    if attention is not None and _CAUSAL[attention] != getattr(loaded.config, "is_causal", True):
        loaded = copy.deepcopy(loaded) if loaded is model else loaded
        loaded.config.is_causal = _CAUSAL[attention]
    if causal:
        check_attention(loaded)
    if provenance(loaded) and not loaded.config.tie_word_embeddings:
        keep_dead_bias_in_step(loaded)
    return loaded, tokenizer


def remember_source(loaded: PreTrainedModel, source: str | os.PathLike[str]) -> None:
    """Keep where a model was loaded from: an encoder's folder tells of pooling, lengths and queries, a model not."""
    loaded.encoder_folder = os.fspath(source)
    if modules_of(source) is not None:
        record(loaded, of_encoder=True)


@contextmanager
def no_weight_bars() -> Iterator[None]:
    """Silence transformers' progress bars over weights and its reports of weights that are missing or not used."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Let what transformers and its libraries raise name the checkpoint."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no more data').splitlines()[0]:.160}"
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(
            f"{what} of {name!r} cannot be read ({reason}): a file is missing, damaged, cut short, or of another kind "
            "(ONNX, TensorFlow); fetch or save it again"
        ) from error


def check_reloadable(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` for weights that a saved folder could not give back: LoRA's, compiled or added layers'."""
    import torch

    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    own = {_bias_key(model)} if (provenance(model) or {}).get("own_bias") else set()  # which our loading puts back
    odd = sorted((set(model.state_dict()) ^ set(plain.state_dict())) - own)
    if odd:
        raise ValueError(
            f"model is a {type(model).__name__} with other layers than its class has ({', '.join(odd[:2])}, ...): a "
            "saved folder could not be loaded. LoRA: call merge_and_unload() first; compiled layers: give the model "
            "that is not compiled"
        )


def load_config(name: str) -> PretrainedConfig:
    """The configuration of a folder or hub name, whose code is never run; ``TypeError`` for what cannot be loaded."""
    from transformers import CONFIG_MAPPING, AutoConfig

    content = read_json(name, "config.json")
    if content is None or content.get("model_type", "bert") not in CONFIG_MAPPING:
        raise TypeError(f"{name!r} {_why_unknown(name, content)}")
    with reading(name, "the configuration"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    vars(config).pop("auto_map", None)  # a saved copy has no such code beside it
    return config


def _why_unknown(name: str, content: dict[str, Any] | None) -> str:
    """What a checkpoint is that transformers does not know."""
    import transformers

    for part in ("", "lora/"):
        adapter = read_json(name, f"{part}adapter_config.json")
        if adapter is not None:
            base, inside = adapter.get("base_model_name_or_path"), ", subfolder='lora'" if part else ""
            return (
                f"holds a LoRA adapter ({part}adapter_config.json) of {base!r} and no whole model. Merge it: "
                f"base = AutoModelForMaskedLM.from_pretrained({base!r}) (of a language model AutoModelForCausalLM); "
                f"model = PeftModel.from_pretrained(base, {name!r}{inside}).merge_and_unload(); then give the model"
            )
    if content is None:
        return "has no config.json: it is not a saved transformers model, or was never fetched whole"
    kind = content["model_type"]
    if "auto_map" in content:
        return (
            f"has the model type {kind!r}, which needs code of its own; such code is never run here. If you trust it, "
            "load model and tokenizer yourself with trust_remote_code=True, and give the loaded model"
        )
    return (
        f"has the model type {kind!r} ({', '.join(content.get('architectures') or ['no architecture'])}), which "
        f"transformers {transformers.__version__} does not know: install a later version, or load it in the tool that "
        "saved it, and save its masked LM with save_pretrained"
    )


def load_model(name: str, dtype: Any = None) -> PreTrainedModel:
    """The masked LM of a folder or hub name itself, whatever a router in it names; ``dtype`` by default float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    dtype = getattr(torch, str(dtype or "float32").removeprefix("torch."))
    config = load_config(name)
    kinds = [kind for kind in (AutoModelForMaskedLM, AutoModelForCausalLM) if type(config) in kind._model_mapping]
    missing = ["masked-LM or causal class of its family"]
    if kinds:
        with reading(name, "the weights"), no_weight_bars():
            model, info = kinds[0].from_pretrained(
                name, config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False
            )
        missing = sorted(info["missing_keys"])
    if missing:
        raise TypeError(
            f"{name!r} holds a {(config.architectures or [type(config).__name__])[0]} without a whole masked-LM head: "
            f"there is no {', '.join(missing[:3])}. add_mlm_head({name!r}) gives an encoder one, to be pretrained"
        )
    if (provenance(model) or {}).get("own_bias"):
        _restore_bias(model, name)
        refuse_lost_bias(model)
    if kinds[0] is AutoModelForCausalLM:
        model.config.use_cache = False  # keys and values of all positions, which only generating needs
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # not mapped from the file, so that it can be replaced on every system
    return model.eval()


def _bias_key(model: PreTrainedModel) -> str:
    decoder = find_head(model).decoder
    return next(path for path, module in model.named_modules() if module is decoder) + ".bias"


def refuse_lost_bias(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` for a model with an added bias, of which its class knows nothing, that is not there."""
    if find_head(model).bias is None and (provenance(model) or {}).get("own_bias"):
        raise ValueError(
            f"model is a {type(model).__name__} that has lost its offset: it was calibrated or shifted, then loaded or "
            "saved by another tool, whose class has no bias. Give the name of the folder that this package saved"
        )


def _restore_bias(model: PreTrainedModel, name: str) -> None:
    """Give the decoder the bias that ``ties.ensure_bias`` added, which the model's class leaves in the file."""
    import torch
    from safetensors import safe_open

    decoder, key = find_head(model).decoder, _bias_key(model)
    index = read_json(name, "model.safetensors.index.json") or {"weight_map": {key: "model.safetensors"}}
    if key not in index["weight_map"]:
        return
    with reading(name, f"{key}, a part of the weights,"), safe_open(
        find_file(name, index["weight_map"][key]), framework="pt"
    ) as file:
        if key in file.keys():  # noqa: SIM118  (no mapping)
            decoder.bias = torch.nn.Parameter(file.get_tensor(key).to(decoder.weight.dtype))


def load_tokenizer(name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """A tokenizer by hub name or folder; ``FileNotFoundError`` and ``ValueError`` name what is missing or damaged."""
    from transformers import AutoTokenizer

    name = check_source(name, "tokenizer")
    if os.path.isdir(name) and not any(map(_OF_A_TOKENIZER.search, os.listdir(name))):
        raise ValueError(f"no tokenizer in {name!r}: save one there, or pass tokenizer=")
    with reading(name, "the tokenizer"):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
