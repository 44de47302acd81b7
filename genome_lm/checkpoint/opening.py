"""Checkpoints in any form that people hold: native, HyenaDNA's own, Hugging Face's, on disk or on the hub."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genome_lm.checkpoint.hyenadna import canonical, infer_config, is_hyenadna, is_metric, to_ours
from genome_lm.checkpoint.native import CONFIG, FORMAT, WEIGHTS, load_checkpoint, load_head
from genome_lm.checkpoint.pickles import StoredTensor, read_pickled
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HyenaLM
from genome_lm.optional import require

PINNED = {
    "LongSafari/hyenadna-tiny-1k-seqlen-hf": "e8c1effa8673814e257e627d2e1eda9ea5a373f6",
    "LongSafari/hyenadna-tiny-1k-seqlen-d256-hf": "6036d4e144922b44470294f510cbfd2539ba3b7e",
    "LongSafari/hyenadna-tiny-16k-seqlen-d128-hf": "d79fa37e2cd62dd338103c630f95be8f90812d46",
    "LongSafari/hyenadna-small-32k-seqlen-hf": "8fe770c78eb13fe33bf81501612faeddf4d6f331",
    "LongSafari/hyenadna-medium-160k-seqlen-hf": "7ebf71773d22c0ede2cc55cb2be15ee8c289e1ce",
    "LongSafari/hyenadna-medium-450k-seqlen-hf": "42dedd4d374eac0fb8168549e546a3472fbd27ae",
    "LongSafari/hyenadna-large-1m-seqlen-hf": "0a629abf9c7f85b4ec9aa6a1aefa3adcf1907446",
}
"""Commits of published models that are loaded unless another revision is asked for."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "weights.ckpt")
"""Where a folder's weights are, the safest form first; the last is how the original models were published."""


class Opened(NamedTuple):
    """A model, the form it was in, what is known of where it comes from, and the head of a tuned one."""

    model: HyenaLM
    form: str
    provenance: dict[str, Any]
    head: Head | None = None


def open_checkpoint(
    source: str | os.PathLike[str], device: str | torch.device = "cpu", revision: str | None = None
) -> Opened:
    """Open a checkpoint of any form. Nothing that is in it can run code.

    Args:
        source: A native folder; an original HyenaDNA `.ckpt` (its config, if it lies beside it as NAME.config.json,
            NAME.json or .yaml, or config.json, must agree with the tensors); a folder of the Hugging Face port
            (model.safetensors or pytorch_model.bin, and config.json), or such a file; or an id on the Hugging Face
            hub, OWNER/NAME, which honours HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE.
        device: Where the model goes.
        revision: For the hub: commit, tag or branch; the pinned commit of a published model if None.

    Returns:
        The model, in eval mode, with its form and provenance.

    Raises:
        GenomeLMError: If there is no checkpoint, it is damaged or malicious, of another architecture or vocabulary,
            or tensors are missing, superfluous or of another shape (all are listed).
    """
    path = Path(source)
    if not path.exists():
        if not _HUB_ID.fullmatch(str(source)):
            raise GenomeLMError(f"{source}: no checkpoint here: no such file or folder, and no hub id (OWNER/NAME)")
        return _from_hub(str(source), device, revision)
    if path.is_dir():
        return _from_folder(path, device)
    return _from_file(path, device)


def _from_hub(hub_id: str, device: str | torch.device, revision: str | None) -> Opened:
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    revision = revision or PINNED.get(hub_id)
    try:
        folder = Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=[CONFIG, *_FOLDER_WEIGHTS]))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise GenomeLMError(f"{hub_id}: not a folder here, and can't be had from the hub: {error}") from error
    opened = _from_folder(folder, device)
    # A snapshot's folder is named by its commit.
    return opened._replace(provenance={**opened.provenance, "hub_id": hub_id, "revision": folder.name})


def _from_folder(folder: Path, device: str | torch.device) -> Opened:
    config = _read_config(folder / CONFIG)
    if config is not None and config.get("format") == FORMAT:
        model, provenance = load_checkpoint(folder, device)
        return Opened(model, "genome-lm", provenance, load_head(folder, device))
    weights = [folder / name for name in _FOLDER_WEIGHTS if (folder / name).exists()]
    if not weights:
        raise GenomeLMError(f"{folder}: no checkpoint here (no {', '.join(_FOLDER_WEIGHTS)})")
    return _from_file(weights[0], device, config)


def _from_file(path: Path, device: str | torch.device, config: dict[str, Any] | None = None) -> Opened:
    """A file of HyenaDNA's tensors, and the config that belongs to it."""
    if path.name == WEIGHTS and config is None:
        config = _read_config(path.with_name(CONFIG))
        if config is not None and config.get("format") == FORMAT:
            return _from_folder(path.parent, device)
    state, extra = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not is_hyenadna(state):
        shown = ", ".join(list(state)[:4]) or "no tensors"
        raise GenomeLMError(
            f"{path}: not a HyenaDNA language model; it holds {shown}{' …' if len(state) > 4 else ''}"
        )
    tensors = {canonical(key): tensor for key, tensor in state.items() if not is_metric(key)}
    inferred = infer_config({key: tuple(tensor.shape) for key, tensor in tensors.items()}, str(path))
    told = _flattened(config or _config_beside(path) or {})
    _check_agreement(path, told, inferred.to_dict())
    model = to_ours(_completed(inferred, told), tensors, str(path))
    return Opened(model.to(device).eval(), _form(path, state), {"imported_from": path.name, **extra})


def _form(path: Path, keys: Mapping[str, Tensor]) -> str:
    if any(".layer." in key for key in keys):
        return "HyenaDNA (Lightning, checkpoint_mixer and checkpoint_mlp)"
    if any(key.startswith("hyena.") for key in keys):
        return f"HyenaDNA (Hugging Face, {path.name})"
    return "HyenaDNA (Lightning)"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        return load_file(path), {}
    except (OSError, SafetensorError) as error:
        raise GenomeLMError(f"{path}: can't read the weights: {error}") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a pickled file, and the steps of training if it tells them."""
    file = read_pickled(path)
    content = file.content if isinstance(file.content, dict) else {}
    nested = content.get("state_dict")
    state = nested if isinstance(nested, dict) else content
    tensors = {key: file.read(value) for key, value in state.items() if isinstance(value, StoredTensor)}
    kept = {key: content[key] for key in ("epoch", "global_step") if isinstance(content.get(key), int)}
    return {str(key): tensor for key, tensor in tensors.items()}, kept


def _config_beside(path: Path) -> dict[str, Any] | None:
    stems = path.name.removesuffix(path.suffix), path.name
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".config.json", ".json", ".yaml", ".yml")]
    for name in (*names, "config.json", "config.yaml"):
        if (config := _read_config(path.with_name(name))) is not None:
            return config
    return None


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        values = _parsed(path)
    except (OSError, ValueError) as error:
        raise GenomeLMError(f"{path}: can't read the config: {error}") from error
    if not isinstance(values, dict):
        raise GenomeLMError(f"{path}: not a config: a mapping of names to values is expected")
    return values


def _parsed(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    yaml = require("yaml")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(error) from error


_THEIR_NAMES = {
    "d_model": ("d_model",),
    "n_layer": ("n_layer",),
    "d_inner": ("d_inner",),
    "emb_dim": ("emb_dim",),
    "filter_order": ("filter_order",),
    "short_filter_order": ("short_filter_order",),
    "order": ("order", "hyena_order"),
    "num_inner_mlps": ("num_inner_mlps",),
    "max_length": ("l_max", "max_seq_len"),
}


_UNTOLD = {
    "layer_norm_epsilon": ("layer_norm_epsilon",),
    "embed_dropout": ("embed_dropout",),
    "resid_dropout": ("resid_dropout", "hyena_dropout"),
    "sine_frequency": ("w", "activation_freq"),
}
"""What no tensor tells: our names → the original's and the port's."""


def _flattened(config: dict[str, Any]) -> dict[str, Any]:
    """A config with its sections `model` and `layer` drawn up."""
    model = config.get("model", config)
    values = dict(model) if isinstance(model, dict) else dict(config)
    layer = values.get("layer")
    return values | (layer if isinstance(layer, dict) else {})


def _completed(inferred: ModelConfig, told: dict[str, Any]) -> ModelConfig:
    """The config from the tensors, with what only the file beside them tells."""
    values = {
        ours: float(told[name])
        for ours, names in _UNTOLD.items()
        for name in names
        if isinstance(told.get(name), int | float)
    }
    return dataclasses.replace(inferred, **values)  # type: ignore[arg-type]


def _check_agreement(path: Path, values: dict[str, Any], inferred: dict[str, Any]) -> None:
    """The tensors tell every size; a config that says otherwise, or names another model, is of something else."""
    kind = values.get("model_type", values.get("_name_", "hyena"))
    if str(kind) not in ("hyena", "hyenadna", "lm", "dna_embedding"):
        raise GenomeLMError(f"{path}: the config beside it is of a {kind!r} model, not of HyenaDNA")
    if values.get("modulate") is False:
        raise GenomeLMError(f"{path}: its filters have no window (modulate: false), which HyenaDNA's have")
    vocabulary = values.get("vocab_size")
    if vocabulary is not None and vocabulary not in (12, 16):
        raise GenomeLMError(f"{path}: the config beside it has a vocabulary of {vocabulary}, HyenaDNA's is 12")
    expected = {**inferred, "max_length": inferred["max_length"] + 2}
    for ours, theirs in _THEIR_NAMES.items():
        for name in theirs:
            if isinstance(values.get(name), int) and values[name] != expected[ours]:
                raise GenomeLMError(
                    f"{path}: the config beside it says {name} {values[name]}, the tensors {expected[ours]}"
                )
