"""Readers and writers of files: VCF, tracks, tables, embeddings, and the parts of unfinished jobs. Without torch."""
