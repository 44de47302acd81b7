"""Checkpoints in any form that people hold: native, HyenaDNA's own, Hugging Face's, on disk, shipped, on the hub."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from genome_lm.checkpoint.configs import completed, config_of, read_mapping
from genome_lm.checkpoint.hub import fetched, require_hub_id
from genome_lm.checkpoint.hyenadna import canonical_state, infer_config, is_hyenadna, to_ours
from genome_lm.checkpoint.native import CONFIG, FORMAT, HEADS, WEIGHTS, load_checkpoint, load_heads
from genome_lm.checkpoint.pickles import read_pickled
from genome_lm.checkpoint.shipped import shipped_folder
from genome_lm.checkpoint.stored import Stored, read_safetensors
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HyenaLM

_INDEX = ".index.json"
"""The end of the name of a list of the files that a large model is spread over."""
_FOLDER_WEIGHTS = (
    WEIGHTS, WEIGHTS + _INDEX, "pytorch_model.bin", "pytorch_model.bin" + _INDEX, "weights.ckpt"
)  # fmt: skip
"""Where a folder's weights are, the safest form first; the last is how the original models were published."""
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")


class Opened(NamedTuple):
    """A model, the form it was in, what is known of where it comes from, and the heads of a tuned one by name."""

    model: HyenaLM
    form: str
    provenance: dict[str, Any]
    heads: Mapping[str, Head] = MappingProxyType({})

    @property
    def head(self) -> Head | None:
        """The head of a tuned model; None where there are several."""
        return next(iter(self.heads.values())) if len(self.heads) == 1 else None

    def only_head(self) -> Head | None:
        """The head, for what has a place for one; None if the model was not tuned.

        Raises:
            GenomeLMError: If there are several.
        """
        if len(self.heads) > 1:
            raise GenomeLMError(f"has the heads {', '.join(self.heads)}; this form has a place for one")
        return self.head

    def named_head(self, name: str) -> Head:
        """One of the heads.

        Raises:
            GenomeLMError: If there is none of this name.
        """
        if name and name in self.heads:
            return self.heads[name]
        there = f"there are {', '.join(self.heads)}" if any(self.heads) else "its only head has no name"
        raise GenomeLMError(f"no head {name!r:.80}: {there if self.heads else 'the model was not tuned'}")


def open_checkpoint(
    source: str | os.PathLike[str], device: str | torch.device = "cpu", revision: str | None = None
) -> Opened:
    """Open a checkpoint of any form. Nothing that is in it can run code.

    Args:
        source: A native folder; an original HyenaDNA `.ckpt` (its config, if it lies beside it as NAME.config.json,
            NAME.json or .yaml, or config.json, must agree with the tensors); a folder of the Hugging Face port
            (model.safetensors or pytorch_model.bin, or several files with an index, and config.json), or such a
            file; the name of a model that comes with this package (`shipped_models`), where no file has it; or an id
            on the Hugging Face hub, OWNER/NAME, which honours HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE. What looks
            like a path is never looked up on the hub. Prefixes of torch.compile, data parallelism and FSDP in the
            names of tensors are taken off.
        device: Where the model goes.
        revision: For the hub alone: commit, tag or branch; the pinned commit of a published model if None.

    Returns:
        The model, in eval mode, with its form and provenance.

    Raises:
        GenomeLMError: If there is no checkpoint, it is damaged or malicious, of another architecture or vocabulary,
            or tensors are missing, superfluous, not finite, or of another shape or type (all are listed).
    """
    try:
        path = Path(os.path.expanduser(source))  # of Path's own, an unknown user is an error
        if path.exists():
            if revision is not None:
                raise GenomeLMError(
                    f"{source}: lies on this machine, where there is no revision {revision!r:.60}; leave it out"
                )
            return _from_folder(path, device) if path.is_dir() else _from_file(path, device)
    except OSError as error:
        raise GenomeLMError(f"{source}: no checkpoint here: {error.strerror or error}") from error
    if (shipped := shipped_folder(os.fspath(source))) is not None:
        if revision is not None:
            raise GenomeLMError(f"{source}: comes with this package, where there is no revision; leave it out")
        return _from_folder(shipped, device)
    hub_id = require_hub_id(os.fspath(source))
    folder = fetched(hub_id, revision, [CONFIG, *_FOLDER_WEIGHTS, HEADS, *_SHARDS])
    opened = _from_folder(folder, device)
    return opened._replace(provenance={**opened.provenance, "hub_id": hub_id, "revision": folder.name})


def _from_folder(folder: Path, device: str | torch.device) -> Opened:
    config = read_mapping(folder / CONFIG) if (folder / CONFIG).exists() else None
    if config is not None and config.get("format") == FORMAT:
        model, provenance = load_checkpoint(folder, device)
        return Opened(model, "genome-lm", provenance, load_heads(folder, device))
    weights = [folder / name for name in _FOLDER_WEIGHTS if (folder / name).exists()]
    if not weights:
        within = f"; there is one in {folder / 'checkpoint'}" if (folder / "checkpoint" / CONFIG).exists() else ""
        raise GenomeLMError(f"{folder}: no checkpoint here (no {', '.join(_FOLDER_WEIGHTS)}){within}")
    return _from_file(weights[0], device, config)


def _from_file(path: Path, device: str | torch.device, config: dict[str, Any] | None = None) -> Opened:
    """A file of HyenaDNA's tensors, or the index of several, and the config that belongs to it."""
    if path.name == WEIGHTS and config is None and (beside := path.with_name(CONFIG)).exists():
        config = read_mapping(beside)
        if config.get("format") == FORMAT:
            return _from_folder(path.parent, device)
    if (shard := _SHARD.fullmatch(path.name)) and path.with_name(f"{shard[1]}{shard[2]}{_INDEX}").exists():
        path = path.with_name(f"{shard[1]}{shard[2]}{_INDEX}")
    state, extra = _read_shards(path) if path.name.endswith(_INDEX) else _read_tensors(path)
    if not is_hyenadna(state):
        shown = ", ".join(f"{name:.60}" for name in list(state)[:4]) or "no tensors"
        raise GenomeLMError(
            f"{path}: not a HyenaDNA language model; it holds {shown}{' …' if len(state) > 4 else ''}"
        )
    tensors = canonical_state(state, str(path))
    inferred = infer_config({name: tensor.shape for name, tensor in tensors.items()}, str(path))
    shape = completed(inferred, config_of(path) if config is None else config, str(path))
    model = to_ours(shape, tensors, str(path))
    return Opened(model.to(device).eval(), _form(path, state), {"imported_from": path.name, **extra})


def _form(path: Path, keys: Iterable[str]) -> str:
    if any(".layer." in key for key in keys):
        return "HyenaDNA (Lightning, checkpoint_mixer and checkpoint_mlp)"
    if any("hyena.backbone." in key for key in keys):
        return f"HyenaDNA (Hugging Face, {path.name})"
    return "HyenaDNA (Lightning)"


def _read_shards(index: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The tensors of a model that is spread over several files in one folder."""
    places = read_mapping(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise GenomeLMError(f"{index}: no `weight_map` of tensors to files")
    state: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise GenomeLMError(f"{index}: {name!r:.60}: the files must be in the same folder")
        tensors, _ = _read_tensors(index.with_name(name))
        expected = {tensor for tensor, place in places.items() if place == name}
        if wrong := sorted(expected ^ tensors.keys()):
            raise GenomeLMError(f"{index}: {name} does not hold what the index says: {wrong[0]:.100}")
        state |= tensors
    return state, {}


def _read_tensors(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The tensors of a file, and the steps of training if it tells them."""
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}
    file = read_pickled(path)
    content = file.content if isinstance(file.content, dict) else {}
    states = {name: state for name, state in _state_dicts(content) if is_hyenadna(state)}
    if len(states) > 1 and "state_dict" not in states:
        raise GenomeLMError(f"{path}: several models in it ({', '.join(states)}); save the one that is wanted alone")
    state = states.get("state_dict") or next(iter(states.values()), content)
    kept = {key: content[key] for key in ("epoch", "global_step") if isinstance(content.get(key), int)}
    return file.tensors(state), kept


def _state_dicts(content: dict[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What may be a state dict: the content itself, or one of its values; each once."""
    nested = {id(values): (str(name), values) for name, values in content.items() if isinstance(values, dict)}
    for name, values in (("", content), *nested.values()):
        yield name, {key: value for key, value in values.items() if isinstance(key, str)}
