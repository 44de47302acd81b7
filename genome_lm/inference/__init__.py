"""Using a model: embeddings, likelihoods, new sequence."""

from genome_lm.inference.batches import BATCH_TOKENS, encode_all, padded_batches
from genome_lm.inference.contigs import Contig, fasta_contigs, store_contigs
from genome_lm.inference.embed_job import Embedded, embed_to_file, gather, shard_path
from genome_lm.inference.embedding import Recipe
from genome_lm.inference.formats import check_suffix
from genome_lm.inference.generation import Generated, write_generated
from genome_lm.inference.genome_lm import GenomeLM, load
from genome_lm.inference.heads import head_outputs, predictions
from genome_lm.inference.memorisation import Memorisation, find_memorised
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.records import Record, fasta_records, interval_records, pieces, windows
from genome_lm.inference.sources import FastaSource, GenomeSource
from genome_lm.inference.tiling import Tiling
from genome_lm.inference.variants import REASONS, Layout, Variant, VariantScores, score_variants

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "REASONS",
    "Contig",
    "Embedded",
    "FastaSource",
    "Generated",
    "GenomeLM",
    "GenomeSource",
    "Layout",
    "Memorisation",
    "Recipe",
    "Record",
    "Tiling",
    "Variant",
    "VariantScores",
    "check_suffix",
    "embed_to_file",
    "encode_all",
    "fasta_contigs",
    "fasta_records",
    "find_memorised",
    "gather",
    "head_outputs",
    "interval_records",
    "load",
    "padded_batches",
    "pieces",
    "predictions",
    "score_variants",
    "shard_path",
    "store_contigs",
    "windows",
    "write_generated",
]
