"""Genomes: FASTA ↔ chunked zarr, intervals and splits, windows to train and evaluate on."""

from genome_lm.genome.assignment import Assignment, Naming
from genome_lm.genome.build import build_store, export_fasta
from genome_lm.genome.classes import BaseClasses
from genome_lm.genome.contig_names import ContigNames, read_contig_map, renaming
from genome_lm.genome.contigs import Contig, fasta_contigs, store_contigs
from genome_lm.genome.copies import Copy, copies_of, find_copies
from genome_lm.genome.fasta import read_fasta
from genome_lm.genome.homology import Leaks, find_leaks
from genome_lm.genome.intervals import SPLITS, Interval, of_split, read_bed, without_overlaps, write_bed
from genome_lm.genome.records import Record, fasta_records, interval_records, pieces, windows
from genome_lm.genome.sampling import Windows, WindowSampler, fetch_windows, soft_masks, tile
from genome_lm.genome.splits import Kin, SplitSummary, find_kin, split_genome, summarise_splits
from genome_lm.genome.store import GenomeStore
from genome_lm.genome.tiling import Tiling

__all__ = [
    "SPLITS",
    "Assignment",
    "BaseClasses",
    "Contig",
    "ContigNames",
    "Copy",
    "GenomeStore",
    "Interval",
    "Kin",
    "Leaks",
    "Naming",
    "Record",
    "SplitSummary",
    "Tiling",
    "WindowSampler",
    "Windows",
    "build_store",
    "copies_of",
    "export_fasta",
    "fasta_contigs",
    "fasta_records",
    "fetch_windows",
    "find_copies",
    "find_kin",
    "find_leaks",
    "interval_records",
    "of_split",
    "pieces",
    "read_bed",
    "read_contig_map",
    "read_fasta",
    "renaming",
    "soft_masks",
    "split_genome",
    "store_contigs",
    "summarise_splits",
    "tile",
    "windows",
    "without_overlaps",
    "write_bed",
]
