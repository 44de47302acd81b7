"""Using a model: embeddings and likelihoods."""

from genome_lm.inference.batches import encode_all, padded_batches
from genome_lm.inference.genome_lm import BATCH_TOKENS, GenomeLM, load
from genome_lm.inference.heads import head_outputs, predictions
from genome_lm.inference.output import check_suffix, write_embeddings
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "GenomeLM",
    "Record",
    "check_suffix",
    "encode_all",
    "fasta_records",
    "head_outputs",
    "interval_records",
    "load",
    "padded_batches",
    "predictions",
    "windows",
    "write_embeddings",
]
