"""Using a model: embeddings and likelihoods."""

from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.embedding import Recipe
from genome_lm.inference.genome_lm import GenomeLM, load
from genome_lm.inference.jobs import Embedded, embed_to_file, gather, shard_path
from genome_lm.inference.output import check_suffix
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows
from genome_lm.inference.sources import FastaSource, GenomeSource, Tiling

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "Embedded",
    "FastaSource",
    "GenomeLM",
    "GenomeSource",
    "Recipe",
    "Record",
    "Tiling",
    "check_suffix",
    "embed_to_file",
    "fasta_records",
    "gather",
    "interval_records",
    "load",
    "shard_path",
    "windows",
]
