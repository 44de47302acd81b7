"""The operators that a layout can name, one file each."""

from genome_lm.errors import GenomeLMError
from genome_lm.model.mixer import Mixer
from genome_lm.model.mixers.attention import Attention
from genome_lm.model.mixers.attention_dilated import DilatedAttention
from genome_lm.model.mixers.attention_local import LocalAttention
from genome_lm.model.mixers.attention_recall import RecallAttention
from genome_lm.model.mixers.hyena import HyenaOperator
from genome_lm.model.mixers.hyena_mr import HyenaMedium
from genome_lm.model.mixers.hyena_se import HyenaShort

MIXERS: dict[str, type[Mixer]] = {
    "hyena": HyenaOperator,
    "hyena-se": HyenaShort,
    "hyena-mr": HyenaMedium,
    "attention": Attention,
    "attention-local": LocalAttention,
    "attention-dilated": DilatedAttention,
    "attention-recall": RecallAttention,
}
"""Operators by their names in a model's layout."""


def mixer_class(name: str) -> type[Mixer]:
    """The operator of a name.

    Raises:
        GenomeLMError: If there is none.
    """
    if name not in MIXERS:
        raise GenomeLMError(f"model config: layout: unknown operator {name!r}; there are: {', '.join(MIXERS)}")
    return MIXERS[name]
