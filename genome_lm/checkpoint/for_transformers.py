"""Models for Hugging Face transformers: a folder of weights and the code that opens them without genome-lm."""

import shutil
from pathlib import Path
from typing import Any

from genome_lm import __version__
from genome_lm.checkpoint.native import CONFIG, WEIGHTS
from genome_lm.checkpoint.stored import write_safetensors
from genome_lm.config import ModelConfig
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_folder
from genome_lm.model import Head, HyenaLM

_CODE = Path(__file__).parent / "transformers_files"
_MODULE, _TOKENIZER = "modeling_genome_lm", "tokenization_genome_lm"
_OPERATORS = {"hyena", "hyena-se", "hyena-mr", "attention", "attention-local", "attention-recall"}
_FIELDS = frozenset(
    "d_model n_layer max_length d_inner order short_filter_order emb_dim filter_order num_inner_mlps sine_frequency "
    "layer_norm_epsilon embed_dropout resid_dropout layout direction reversed_weights heads attention_window "
    "attention_segments recall_taps recall_keys recall_others se_taps mr_taps filter_groups conditions ngram_order "
    "ngram_width".split()
)
_POOLS = ("mean", "last", "max", "masked")
_PROBLEMS = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}
_CARD = """---
library_name: transformers
tags: [dna, genomics]
---
# {title}

A language model of DNA, trained and written by genome-lm {version}. {parameters:,} parameters, contexts to
{max_length:,} bases, a token per base. {reading}

```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)
model = {auto}.from_pretrained(".", trust_remote_code=True)
output = model(**tokenizer(["ACGTTGCA", "ACC"], padding=True, return_tensors="pt"))
```

The code is plain PyTorch. genome-lm opens the checkpoint that this was written from, and is faster.
"""


def export_for_transformers(model: HyenaLM, out: Path, head: Head | None = None) -> Path:
    """Write a model, tuned or not, as a folder that transformers opens by trust_remote_code.

    AutoModel, AutoTokenizer, and AutoModelForCausalLM or, for models that read both ways, AutoModelForMaskedLM open
    it; with a head AutoModelForSequenceClassification too.

    Args:
        model: The model.
        out: The folder.
        head: Of a tuned model: classification or multilabel, of one strand, on states that are pooled by mean, last,
            max or masked.

    Returns:
        The folder.

    Raises:
        GenomeLMError: If the form has no place for something of the model or its head, or it can't be written.
    """
    _check(model.config, head, out)
    state = model.state_dict()
    if head is not None:
        state |= {f"score.{name}": tensor for name, tensor in head.out.state_dict().items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing_folder(out) as folder:
        write_safetensors(folder / WEIGHTS, state, {"format": "pt"})
        files = {CONFIG: _config(model.config, head), "tokenizer_config.json": _tokenizer(model.config)}
        for name, values in files.items():
            (folder / name).write_text(json_text(values, indent=1) + "\n", encoding="utf-8")
        for module in (_MODULE, _TOKENIZER):
            shutil.copyfile(_CODE / f"{module}.py", folder / f"{module}.py")
        (folder / "README.md").write_text(_card(model, head, out.name), encoding="utf-8")
    return out


def register_with_transformers() -> None:
    """Let transformers open such folders by the code of this package, without trust_remote_code.

    Raises:
        ImportError: Without transformers.
    """
    import transformers

    from genome_lm.checkpoint.transformers_files import modeling_genome_lm as models
    from genome_lm.checkpoint.transformers_files.tokenization_genome_lm import GenomeLMTokenizer

    config = models.GenomeLMConfig
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    transformers.AutoTokenizer.register(config, GenomeLMTokenizer, exist_ok=True)
    transformers.AutoModel.register(config, models.GenomeLMModel, exist_ok=True)
    for kind in ("CausalLM", "MaskedLM", "SequenceClassification"):
        auto = getattr(transformers, f"AutoModelFor{kind}")
        auto.register(config, getattr(models, f"GenomeLMFor{kind}"), exist_ok=True)


def _check(config: ModelConfig, head: Head | None, out: Path) -> None:
    unknown = sorted(set(config.to_dict()) - _FIELDS) + sorted(set(config.mixers) - _OPERATORS)
    if unknown:
        raise GenomeLMError(f"{out}: the form for transformers has no place for {', '.join(unknown)}")
    if head is None:
        return
    wrong = {
        f"task {head.config.task}": head.config.task not in _PROBLEMS,
        f"pool {head.config.pool}": head.config.pool not in _POOLS,
        f"strand {head.config.strand}": head.config.strand != "forward",
        "pairs of sequences": head.config.pair != "none",
        "a soft prompt": head.config.prompt > 0,
        f"condition {head.config.condition}": head.config.condition is not None,
    }
    if reasons := [reason for reason, is_wrong in wrong.items() if is_wrong]:
        raise GenomeLMError(
            f"{out}: the form for transformers has no place for a head with {', '.join(reasons)}; it takes "
            f"{' or '.join(_PROBLEMS)} of one strand, pooled by {', '.join(_POOLS)}"
        )


def _language_model(config: ModelConfig) -> str:
    return "MaskedLM" if config.direction.sees_following else "CausalLM"


def _config(config: ModelConfig, head: Head | None) -> dict[str, Any]:
    names = {"AutoModel": "GenomeLMModel", "AutoConfig": "GenomeLMConfig"}
    kinds = [_language_model(config)] + ([] if head is None else ["SequenceClassification"])
    names |= {f"AutoModelFor{kind}": f"GenomeLMFor{kind}" for kind in kinds}
    values: dict[str, Any] = {
        "architectures": [f"GenomeLMFor{kinds[-1]}"],
        "auto_map": {auto: f"{_MODULE}.{name}" for auto, name in names.items()},
        "dtype": "float32",
        "genome_lm_version": __version__,
        "model_type": "genome_lm",
        "shape": config.to_dict(),
    }
    if head is not None:
        labels = dict(enumerate(head.config.outputs))
        values |= {
            "id2label": {str(number): name for number, name in labels.items()},
            "label2id": {name: number for number, name in labels.items()},
            "pool": head.config.pool,
            "problem_type": _PROBLEMS[head.config.task],
        }
    return values


def _tokenizer(config: ModelConfig) -> dict[str, Any]:
    return {
        "auto_map": {"AutoTokenizer": [f"{_TOKENIZER}.GenomeLMTokenizer", None]},
        "model_max_length": config.filter_length,
        "padding_side": "right",
        "tokenizer_class": "GenomeLMTokenizer",
    }


def _card(model: HyenaLM, head: Head | None, title: str) -> str:
    causal = not model.config.direction.sees_following
    conditions = ", ".join(f"{model.config.condition_id(name)} is {name}" for name in model.config.conditions)
    reading = "It predicts the next base." if causal else "It predicts hidden bases from both sides."
    return _CARD.format(
        title=title,
        version=__version__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_length=model.config.max_length,
        reading=reading + (f" A condition is the first token: {conditions}." if conditions else ""),
        auto=f"AutoModelFor{_language_model(model.config) if head is None else 'SequenceClassification'}",
    )
