"""Labelled sequences: read, written, made from annotation and genomes, split without leaks."""

from genome_lm.dataset.annotation import Annotation, read_annotation
from genome_lm.dataset.audit import Check, audit_set, check_rules
from genome_lm.dataset.benchmarks import (
    Benchmark,
    compare_benchmark,
    download_benchmark,
    read_benchmark_folder,
    read_benchmarks,
)
from genome_lm.dataset.coding import Transcript
from genome_lm.dataset.examples import (
    RESERVED,
    TABLES,
    joined,
    read_examples,
    read_pairs,
    summarise,
    write_examples,
    write_table,
)
from genome_lm.dataset.genes import KINDS, gene_set
from genome_lm.dataset.labelled import Example, LabelledSet, splits_of
from genome_lm.dataset.pairs import PairSet, pair_set
from genome_lm.dataset.regions import CLASSES, bases_of_classes, classify_regions
from genome_lm.dataset.species import HOMOLOGY, Shares, species_set
from genome_lm.dataset.splits import Leak, assign_splits, describe_leaks, find_leaks, split_by_regions
from genome_lm.dataset.tables import list_columns
from genome_lm.dataset.track_sets import TrackRecipe, TrackSet
from genome_lm.dataset.variant_sets import VariantManifest, VariantSet, read_variant_set, variant_manifest

__all__ = [
    "CLASSES",
    "HOMOLOGY",
    "KINDS",
    "RESERVED",
    "TABLES",
    "Annotation",
    "Benchmark",
    "Check",
    "Example",
    "LabelledSet",
    "Leak",
    "PairSet",
    "Shares",
    "TrackRecipe",
    "TrackSet",
    "Transcript",
    "VariantManifest",
    "VariantSet",
    "assign_splits",
    "audit_set",
    "bases_of_classes",
    "check_rules",
    "classify_regions",
    "compare_benchmark",
    "describe_leaks",
    "download_benchmark",
    "find_leaks",
    "gene_set",
    "joined",
    "list_columns",
    "pair_set",
    "read_annotation",
    "read_benchmark_folder",
    "read_benchmarks",
    "read_examples",
    "read_pairs",
    "read_variant_set",
    "species_set",
    "split_by_regions",
    "splits_of",
    "summarise",
    "variant_manifest",
    "write_examples",
    "write_table",
]
