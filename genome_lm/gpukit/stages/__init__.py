"""The stages, each a module with a function `run` that takes a `genome_lm.gpukit.kit.Kit`."""
