"""Language models of DNA with implicit long convolutions: data, training, inference, evaluation.

`load` opens a checkpoint, `GenomeStore` a genome; `encode` and `decode` translate DNA to token ids and back;
`PRESETS` are shapes of models by name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genome_lm.alphabet import decode, encode
    from genome_lm.config import PRESETS, ModelConfig
    from genome_lm.errors import GenomeLMError
    from genome_lm.genome import GenomeStore
    from genome_lm.inference import GenomeLM, load

__version__ = "0.2.0"
__all__ = ["PRESETS", "GenomeLM", "GenomeLMError", "GenomeStore", "ModelConfig", "decode", "encode", "load"]

_HOMES = {
    "PRESETS": "config",
    "ModelConfig": "config",
    "GenomeLMError": "errors",
    "GenomeStore": "genome",
    "GenomeLM": "inference",
    "decode": "alphabet",
    "encode": "alphabet",
    "load": "inference",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and `genome-lm --help` needs none of it."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"genome_lm.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a shell completes: the public names, whether they are imported yet or not."""
    return sorted([*__all__, "__version__"])
