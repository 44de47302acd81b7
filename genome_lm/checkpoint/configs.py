"""Configs that lie beside weights: reading them, and what those of HyenaDNA's forms tell of a model."""

import dataclasses
from pathlib import Path
from typing import Any

from genome_lm.checkpoint.stored import check_file, read_metadata
from genome_lm.config import ModelConfig
from genome_lm.documents import parse_json, read_json, read_yaml
from genome_lm.errors import GenomeLMError, naming

_BYTES = 4 << 20
"""The most that a config may take."""
_SIZES = {
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
"""What the tensors tell too: our names → the original's and the port's."""
_UNTOLD = {
    "layer_norm_epsilon": ("layer_norm_epsilon",),
    "embed_dropout": ("embed_dropout",),
    "resid_dropout": ("resid_dropout", "hyena_dropout"),
    "sine_frequency": ("w", "activation_freq"),
}
"""What no tensor tells: our names → the original's and the port's."""


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON or YAML file of names and values.

    Raises:
        GenomeLMError: If it can't be read, is very large, or holds something else.
    """
    check_file(path)
    values = read_json(path, _BYTES) if path.suffix == ".json" else read_yaml(path)
    return _mapping(values, path)


def _mapping(values: Any, path: Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise GenomeLMError(f"{path}: not a config: a mapping of names to values is expected")
    return values


def config_of(path: Path) -> dict[str, Any]:
    """The config within a safetensors file of ours, or beside a file of weights; nothing if there is none."""
    text = read_metadata(path).get("config") if path.suffix == ".safetensors" else None
    if text is not None:
        return _mapping(parse_json(text, f"{path}: config in the header"), path)
    # The name of an index of several files is no model's.
    stems = () if path.suffix == ".json" else (path.name.removesuffix(path.suffix), path.name)
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".config.json", ".json", ".yaml", ".yml")]
    for name in (*names, "config.json", "config.yaml"):
        if path.with_name(name).exists():
            return read_mapping(path.with_name(name))
    return {}


def completed(inferred: ModelConfig, config: dict[str, Any], source: str) -> ModelConfig:
    """The shape that the tensors tell, with what only the config beside them does.

    Args:
        inferred: The shape that the tensors tell.
        config: Of the original or of the port; empty if there is none.
        source: What errors call the tensors.

    Raises:
        GenomeLMError: If the config is of another model, or says another size or an impossible value.
    """
    told = _flattened(config)
    _check_agreement(told, inferred, source)
    names = {ours: name for ours, theirs in _UNTOLD.items() for name in theirs if told.get(name) is not None}
    with naming(source):
        values = {ours: _number(name, told[name]) for ours, name in names.items()}
        return dataclasses.replace(inferred, **values, conditions=told.get("conditions", ()))  # type: ignore[arg-type]


def _number(name: str, value: Any) -> float:
    try:
        return float(value if isinstance(value, int | float) and not isinstance(value, bool) else "")
    except (ValueError, OverflowError):
        raise GenomeLMError(f"the config beside it says {name} {value!r:.60}, not a number in bounds") from None


def _flattened(config: dict[str, Any]) -> dict[str, Any]:
    """A config with its sections `model` and `layer` drawn up."""
    model = config.get("model", config)
    values = dict(model) if isinstance(model, dict) else dict(config)
    layer = values.get("layer")
    return values | (layer if isinstance(layer, dict) else {})


def _check_agreement(told: dict[str, Any], inferred: ModelConfig, source: str) -> None:
    """The tensors tell every size; a config that says otherwise, or names another model, is of something else."""
    kind = told.get("model_type", told.get("_name_", "hyena"))
    if kind not in ("hyena", "hyenadna", "lm", "dna_embedding"):
        raise GenomeLMError(f"{source}: the config beside it is of a {kind!r:.60} model, not of HyenaDNA")
    if told.get("modulate") is False:
        raise GenomeLMError(f"{source}: its filters have no window (modulate: false), which HyenaDNA's have")
    vocabulary = told.get("vocab_size")
    if vocabulary is not None and vocabulary not in (12, 16):
        raise GenomeLMError(
            f"{source}: the config beside it has a vocabulary of {vocabulary!r:.60}, HyenaDNA's is 12"
        )
    sizes = {**inferred.to_dict(), "max_length": inferred.filter_length}
    for ours, theirs in _SIZES.items():
        for name in theirs:
            if isinstance(told.get(name), int) and told[name] != sizes[ours]:
                raise GenomeLMError(
                    f"{source}: the config beside it says {name} {told[name]!r:.60}, the tensors {sizes[ours]}"
                )
