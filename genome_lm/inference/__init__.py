"""Using a model: embeddings and likelihoods."""

from genome_lm.inference.genome_lm import BATCH_TOKENS, GenomeLM, load
from genome_lm.inference.output import check_suffix, write_embeddings
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows
from genome_lm.inference.variants import REASONS, Layout, Variant, VariantScores, score_variants

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "REASONS",
    "GenomeLM",
    "Layout",
    "Record",
    "Variant",
    "VariantScores",
    "check_suffix",
    "fasta_records",
    "interval_records",
    "load",
    "score_variants",
    "windows",
    "write_embeddings",
]
