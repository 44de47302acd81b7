"""Genomes: FASTA ↔ chunked zarr, intervals and splits, windows to train and evaluate on."""

from genome_lm.genome.build import build_store, export_fasta
from genome_lm.genome.contig_names import ContigNames, read_contig_map, renaming
from genome_lm.genome.fasta_text import read_fasta
from genome_lm.genome.intervals import SPLITS, Interval, of_split, read_bed, write_bed
from genome_lm.genome.sampling import Windows, WindowSampler, fetch_windows, soft_masks, tile
from genome_lm.genome.splits import SplitSummary, split_genome, summarise_splits
from genome_lm.genome.store import GenomeStore

__all__ = [
    "SPLITS",
    "ContigNames",
    "GenomeStore",
    "Interval",
    "SplitSummary",
    "WindowSampler",
    "Windows",
    "build_store",
    "export_fasta",
    "fetch_windows",
    "of_split",
    "read_bed",
    "read_contig_map",
    "read_fasta",
    "renaming",
    "soft_masks",
    "split_genome",
    "summarise_splits",
    "tile",
    "write_bed",
]
