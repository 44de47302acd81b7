"""Language models of DNA with implicit long convolutions: data, training, inference, evaluation.

`load` opens a checkpoint, `GenomeStore` a genome; `PRESETS` are the published model sizes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genome_lm.config import PRESETS, ModelConfig
    from genome_lm.errors import GenomeLMError
    from genome_lm.genome import GenomeStore
    from genome_lm.inference import GenomeLM, load

__version__ = "0.1.0"
__all__ = ["PRESETS", "GenomeLM", "GenomeLMError", "GenomeStore", "ModelConfig", "load"]

_HOMES = {
    "PRESETS": "config",
    "ModelConfig": "config",
    "GenomeLMError": "errors",
    "GenomeStore": "genome",
    "GenomeLM": "inference",
    "load": "inference",
}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and `genome-lm --help` needs none of it."""
    if name in _HOMES:
        return getattr(import_module(f"genome_lm.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
