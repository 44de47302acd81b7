"""The `genome-lm` command line: one module a command; it parses, calls `genome_lm` and prints."""
