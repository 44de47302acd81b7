"""Using a model: embeddings and likelihoods."""

from genome_lm.inference.genome_lm import BATCH_TOKENS, GenomeLM, load
from genome_lm.inference.output import check_suffix, write_embeddings
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "GenomeLM",
    "Record",
    "check_suffix",
    "fasta_records",
    "interval_records",
    "load",
    "windows",
    "write_embeddings",
]
