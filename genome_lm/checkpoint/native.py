"""Native checkpoints: a folder of model.safetensors and config.json; nothing in it can run code.

A tuned model has a section `head` in its config.json, and the head's tensors in head.safetensors. One that was tuned
with several heads has a section `heads` of them by name, and the tensors of each in head.NAME.safetensors.

config.json also holds digests (section `sha256`) of the files of tensors, and of those of its own sections that say
what they mean. A checkpoint that was damaged or changed since it was written is refused; one without digests is not
checked by them.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genome_lm import __version__
from genome_lm.alphabet import VOCABULARY
from genome_lm.checkpoint.configs import read_mapping
from genome_lm.checkpoint.stored import (
    Stored,
    build,
    check_counts,
    check_file,
    read_safetensors,
    write_safetensors,
)
from genome_lm.config import ModelConfig
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import replacing_folder, sha256
from genome_lm.model import Head, HeadConfig, HyenaLM

FORMAT = "genome-lm"
FORMAT_VERSION = 1
WEIGHTS, CONFIG, HEAD = "model.safetensors", "config.json", "head.safetensors"
HEADS = "head*.safetensors"
"""Pattern of the files of heads."""
_HEAD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: HyenaLM,
    provenance: dict[str, Any] | None = None,
    head: Head | Mapping[str, Head] | None = None,
) -> Path:
    """Write a model to a folder, replacing a checkpoint that is there.

    The folder is written under a temporary name beside its place and then renamed, so that it is never half-written.

    Args:
        folder: Where the checkpoint goes; its parents are made.
        model: The model, on any device.
        provenance: Where the weights come from (data, training, versions), as JSON values.
        head: Of a tuned model, on any device; several by their names. The name "" is that of a single one.

    Returns:
        The folder.

    Raises:
        GenomeLMError: If a head's name is unfit for a file.
    """
    heads = {"": head} if isinstance(head, Head) else dict(head or {})
    if [*heads] != [""]:
        check_head_names(heads)
    config: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "genome_lm_version": __version__,
        "vocabulary": list(VOCABULARY),
        "model": model.config.to_dict(),
        "provenance": provenance or {},
    }
    if "" in heads:
        config["head"] = heads[""].config.to_dict()
    elif heads:
        config["heads"] = {name: each.config.to_dict() for name, each in heads.items()}
    with replacing_folder(Path(folder)) as temporary:
        _write_tensors(temporary / WEIGHTS, model)
        for name, each in heads.items():
            _write_tensors(temporary / _head_file(name), each)
        digests = {file: sha256(temporary / file) for file in (WEIGHTS, *map(_head_file, heads))}
        config["sha256"] = {**digests, CONFIG: _sections_sha256(config)}
        (temporary / CONFIG).write_text(json_text(config) + "\n", encoding="utf-8")
    return Path(folder)


def check_head_names(names: Iterable[str]) -> None:
    """Raise a `GenomeLMError` on a name of a head that is unfit for files and folders, or that another has."""
    names = [*names]
    for name in names:
        if not _HEAD_NAME.fullmatch(name) or name == "checkpoint":
            raise GenomeLMError(
                f"head {name!r:.80}: a name has up to 64 letters, digits, _, ., + and -, begins with a letter, a "
                "digit or _, and is not checkpoint"
            )
    if len({name.casefold() for name in names}) < len(names):
        raise GenomeLMError(f"heads {', '.join(names)}: two have one name, but for capital letters")


def _head_file(name: str) -> str:
    return f"head.{name}.safetensors" if name else HEAD


def _write_tensors(path: Path, module: nn.Module) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_safetensors(path, state)


def _sections_sha256(config: dict[str, Any]) -> str:
    """SHA-256 of what a config says of the tensors, whatever its spacing."""
    sections = {name: config.get(name) for name in ("vocabulary", "model", "head")}
    if "heads" in config:
        sections["heads"] = config["heads"]
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def load_checkpoint(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[HyenaLM, dict[str, Any]]:
    """Read a native checkpoint.

    Args:
        folder: A folder that `save_checkpoint` wrote.
        device: Where the weights go.

    Returns:
        The model in eval mode, and the provenance.

    Raises:
        GenomeLMError: If the folder is not a native checkpoint, its vocabulary is another, it was damaged or changed
            since it was written, or tensors are missing, superfluous, not finite, or of another shape or type.
    """
    folder = Path(folder)
    config = read_config(folder)
    shape = model_config(config, folder)
    stored = _read_tensors(folder / WEIGHTS, config)
    check_counts({"n_layer": shape.n_layer, "num_inner_mlps": shape.num_inner_mlps}, stored, str(folder / WEIGHTS))
    model = build(lambda: HyenaLM(shape), stored, str(folder / WEIGHTS))
    return model.to(device).eval(), config["provenance"]


def load_heads(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Head]:
    """The heads of a native checkpoint by their names, in eval mode; a single one's is "". None if it was not tuned.

    Raises:
        GenomeLMError: As `load_checkpoint`.
    """
    folder = Path(folder)
    config = read_config(folder)
    shape = model_config(config, folder)
    with naming(folder / CONFIG):
        check_head_names(config.get("heads", {}))
        each = {"": config["head"]} if "head" in config else config.get("heads", {})
        configs = {name: HeadConfig.from_dict(values) for name, values in each.items()}
    heads = {}
    for name, head in configs.items():
        path = folder / _head_file(name)
        made = build(lambda head=head: Head(head, shape), _read_tensors(path, config), str(path))  # type: ignore[misc]
        heads[name] = made.to(device).eval()
    return heads


def _read_tensors(path: Path, config: dict[str, Any]) -> dict[str, Stored]:
    """The tensors of a file, if it is what it was when the config was written."""
    check_file(path)
    expected = config["sha256"].get(path.name)
    if expected is not None and sha256(path) != expected:
        raise GenomeLMError(
            f"{path}: damaged, or of another checkpoint: its SHA-256 is not the one in {CONFIG}; copy it again"
        )
    return read_safetensors(path)


def model_config(config: dict[str, Any], folder: Path) -> ModelConfig:
    """The model's shape in the config of a native checkpoint.

    Raises:
        GenomeLMError: On an unknown or a missing field, or a value out of range.
    """
    with naming(folder / CONFIG):
        return ModelConfig.from_dict(config["model"])


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a native checkpoint, its format, vocabulary and digest checked.

    Raises:
        GenomeLMError: If it is not there, not ours, of another vocabulary, or changed since it was written.
    """
    path = folder / CONFIG
    if not path.exists():
        raise GenomeLMError(f"{folder}: no checkpoint here ({CONFIG} is missing)")
    config = read_mapping(path)
    if config.get("format") != FORMAT:
        raise GenomeLMError(f"{path}: not a genome-lm checkpoint")
    if config.get("format_version") != FORMAT_VERSION:
        raise GenomeLMError(
            f"{path}: format version {config.get('format_version')}, this genome-lm reads {FORMAT_VERSION}"
        )
    if config.get("vocabulary") != list(VOCABULARY):
        raise GenomeLMError(f"{path}: another vocabulary: {config.get('vocabulary')}; expected {list(VOCABULARY)}")
    config = {"model": {}, "provenance": {}, "sha256": {}} | config
    for name in config.keys() & {"model", "head", "heads", "provenance", "sha256"}:
        if not isinstance(config[name], dict):
            raise GenomeLMError(f"{path}: {name}: a mapping of names to values is expected")
    if config["sha256"].get(CONFIG, digest := _sections_sha256(config)) != digest:
        raise GenomeLMError(
            f"{path}: the model's shape, head or vocabulary is not what was written (another SHA-256): damaged, or "
            "edited; copy it again, or, if you meant it, remove the section `sha256`"
        )
    return config


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, in the order of their names; hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
