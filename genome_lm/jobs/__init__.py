"""Resumable jobs: a file in, a model over it in parts, a file out."""

from genome_lm.jobs.embed import Embedded, embed_to_file, gather, shard_path
from genome_lm.jobs.sources import FastaSource, GenomeSource

__all__ = ["Embedded", "FastaSource", "GenomeSource", "embed_to_file", "gather", "shard_path"]
