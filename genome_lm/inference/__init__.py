"""Using a model: embeddings, likelihoods, new sequence."""

from genome_lm.inference.generation import Generated, write_generated
from genome_lm.inference.genome_lm import BATCH_TOKENS, GenomeLM, load
from genome_lm.inference.memorisation import Contig, Memorisation, fasta_contigs, memorisation, store_contigs
from genome_lm.inference.output import check_suffix, write_embeddings
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, windows

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "Contig",
    "Generated",
    "GenomeLM",
    "Memorisation",
    "Record",
    "check_suffix",
    "fasta_contigs",
    "fasta_records",
    "interval_records",
    "load",
    "memorisation",
    "store_contigs",
    "windows",
    "write_embeddings",
    "write_generated",
]
