"""Using a model: embeddings, likelihoods, new sequence."""

from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.embedding import Recipe
from genome_lm.inference.generation import Generated, write_generated
from genome_lm.inference.genome_lm import GenomeLM, load
from genome_lm.inference.jobs import Embedded, embed_to_file, gather, shard_path
from genome_lm.inference.memorisation import Contig, Memorisation, fasta_contigs, memorisation, store_contigs
from genome_lm.inference.output import check_suffix
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows
from genome_lm.inference.sources import FastaSource, GenomeSource, Tiling

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "Contig",
    "Embedded",
    "FastaSource",
    "Generated",
    "GenomeLM",
    "GenomeSource",
    "Memorisation",
    "Recipe",
    "Record",
    "Tiling",
    "check_suffix",
    "embed_to_file",
    "fasta_contigs",
    "fasta_records",
    "gather",
    "interval_records",
    "load",
    "memorisation",
    "shard_path",
    "store_contigs",
    "windows",
    "write_generated",
]
