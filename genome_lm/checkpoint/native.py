"""Native checkpoints: a folder of model.safetensors and config.json; nothing in it can run code.

A tuned model has a section `head` in its config.json, and the head's tensors in head.safetensors.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genome_lm import __version__
from genome_lm.alphabet import VOCABULARY
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_folder
from genome_lm.model import Head, HeadConfig, HyenaLM

FORMAT = "genome-lm"
FORMAT_VERSION = 1
WEIGHTS, CONFIG, HEAD = "model.safetensors", "config.json", "head.safetensors"


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: HyenaLM,
    provenance: dict[str, Any] | None = None,
    head: Head | None = None,
) -> Path:
    """Write a model to a folder, replacing a checkpoint that is there.

    The folder is written under a temporary name beside its place and then renamed, so that it is never half-written.

    Args:
        folder: Where the checkpoint goes; its parents are made.
        model: The model, on any device.
        provenance: Where the weights come from (data, training, versions), as JSON values.
        head: Of a tuned model, on any device.

    Returns:
        The folder.
    """
    config: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "genome_lm_version": __version__,
        "vocabulary": list(VOCABULARY),
        "model": model.config.to_dict(),
        "provenance": provenance or {},
    }
    if head is not None:
        config["head"] = head.config.to_dict()
    with replacing_folder(Path(folder)) as temporary:
        _write_tensors(temporary / WEIGHTS, model)
        if head is not None:
            _write_tensors(temporary / HEAD, head)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return Path(folder)


def _write_tensors(path: Path, module: nn.Module) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise GenomeLMError(f"{path}: can't write the weights: {error}") from error


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
        GenomeLMError: If the folder is not a native checkpoint, its vocabulary is another, or tensors are missing,
            superfluous or of another shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = HyenaLM(ModelConfig.from_dict(config["model"]))
    load_strictly(model, _read_tensors(folder / WEIGHTS), str(folder))
    return model.to(device).eval(), config["provenance"]


def load_head(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Head | None:
    """The head of a native checkpoint, in eval mode; None if the model was not tuned.

    Raises:
        GenomeLMError: As `load_checkpoint`.
    """
    folder = Path(folder)
    config = read_config(folder)
    if "head" not in config:
        return None
    head = Head(HeadConfig.from_dict(config["head"]), ModelConfig.from_dict(config["model"]))
    load_strictly(head, _read_tensors(folder / HEAD), str(folder / HEAD))
    return head.to(device).eval()


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise GenomeLMError(f"{path}: can't read the weights: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a native checkpoint, its format and vocabulary checked.

    Raises:
        GenomeLMError: If it is not there, not ours, or of another vocabulary.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise GenomeLMError(f"{folder}: no checkpoint here ({CONFIG} is missing)") from None
    except ValueError as error:
        raise GenomeLMError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise GenomeLMError(f"{path}: not a genome-lm checkpoint")
    if config.get("format_version") != FORMAT_VERSION:
        raise GenomeLMError(
            f"{path}: format version {config.get('format_version')}, this genome-lm reads {FORMAT_VERSION}"
        )
    if config.get("vocabulary") != list(VOCABULARY):
        raise GenomeLMError(f"{path}: another vocabulary: {config.get('vocabulary')}; expected {list(VOCABULARY)}")
    return config


def weights_sha256(model: HyenaLM) -> str:
    """SHA-256 over all parameters and buffers, in the order of their names; hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_strictly(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Copy tensors into the model; every one must be there, none too many, all of the right shape.

    Raises:
        GenomeLMError: Listing all missing, superfluous and mis-shaped tensors.
    """
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"superfluous {name}" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)}, should be {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        raise GenomeLMError(f"{source}: tensors don't fit the model:\n  " + "\n  ".join(problems))
    model.load_state_dict(state)
