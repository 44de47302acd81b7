"""The plain way of scoring variants, which that of shared passes is compared with."""

from typing import Any
from unittest import mock

from genome_lm.genome.variants import VariantScores
from genome_lm.inference import score_variants
from genome_lm.model import recompute


def score_in_full(*arguments: Any, **options: Any) -> VariantScores:
    """`score_variants`, where each window is read in full, with the reference and with each alternative."""
    plain = {
        "reference_states": recompute.plain_reference_states,
        "alternative_layers": recompute.plain_alternative_layers,
    }
    with mock.patch.multiple(recompute, **plain):
        return score_variants(*arguments, **options)
