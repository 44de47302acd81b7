"""Models for other programs: the Hugging Face port's folder, or one safetensors file."""

from pathlib import Path
from typing import Any, Literal

from genome_lm import __version__
from genome_lm.alphabet import VOCABULARY
from genome_lm.checkpoint.hyenadna import to_theirs
from genome_lm.checkpoint.native import CONFIG, WEIGHTS
from genome_lm.checkpoint.stored import write_safetensors
from genome_lm.config import ModelConfig
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, replacing_folder
from genome_lm.model import HyenaLM
from genome_lm.model.language_model import INITIALIZER_RANGE

Format = Literal["hf", "safetensors"]


def export_checkpoint(model: HyenaLM, out: Path, form: Format = "hf") -> Path:
    """Write a model so that programs made for HyenaDNA's Hugging Face port read it.

    Args:
        model: The model.
        out: "hf": a folder, with model.safetensors (the port's keys; the sine frequency that a filter's activations
            share is stored once; the positional features are stored, as there) and config.json. "safetensors": one
            file of the same tensors, with the config as JSON in its metadata.
        form: Which of the two.

    Returns:
        What was written. `open_checkpoint` reads it back exactly.

    Raises:
        GenomeLMError: On an unknown form, a model with n-grams or other operators than HyenaDNA's or one that reads
            both ways, or if it can't be written.
    """
    if others := sorted(set(model.config.mixers) - {"hyena"}):
        raise GenomeLMError(f"{out}: HyenaDNA's form has no place for the operators {', '.join(others)}")
    if model.config.ngram_order:
        raise GenomeLMError(f"{out}: HyenaDNA's form has no place for embeddings of n-grams (ngram_order)")
    if model.config.direction.sees_following:
        raise GenomeLMError(f"{out}: HyenaDNA's form has no place for a model that reads both ways (direction both)")
    config, state = hf_config(model.config), to_theirs(model, "hyena.")
    if form == "hf":
        with replacing_folder(out) as folder:
            write_safetensors(folder / WEIGHTS, state, {"genome_lm_version": __version__})
            (folder / CONFIG).write_text(json_text(config, indent=1) + "\n", encoding="utf-8")
    elif form == "safetensors":
        with replacing_file(out) as temporary:
            write_safetensors(temporary, state, {"config": json_text(config, indent=None)})
    else:
        raise GenomeLMError(f"format {form!r}: use hf or safetensors")
    return out


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of the port's config.json."""
    return {
        "architectures": ["HyenaDNAForCausalLM"],
        "model_type": "hyenadna",
        "activation_freq": config.sine_frequency,
        "d_inner": config.d_inner,
        "d_model": config.d_model,
        "emb_dim": config.emb_dim,
        "embed_dropout": config.embed_dropout,
        "filter_order": config.filter_order,
        "hyena_dropout": config.resid_dropout,
        "hyena_filter_dropout": 0.0,
        "hyena_order": config.order,
        "initializer_range": INITIALIZER_RANGE,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "max_seq_len": config.filter_length,
        "n_layer": config.n_layer,
        "num_inner_mlps": config.num_inner_mlps,
        "pad_vocab_size_multiple": 8,
        "short_filter_order": config.short_filter_order,
        "torch_dtype": "float32",
        "train_freq": True,
        "use_bias": True,
        "vocab_size": len(VOCABULARY),
        # The port has no such field; its embedding has their tokens.
        **({"conditions": list(config.conditions)} if config.conditions else {}),
    }
