"""Using a model in memory: embeddings, likelihoods, scores of variants, predictions, new sequence."""

from genome_lm.inference.batches import BATCH_TOKENS, encode_one, padded_batches
from genome_lm.inference.embedding import Recipe
from genome_lm.inference.generation import Generated, write_generated
from genome_lm.inference.heads import head_outputs, pooled, predictions
from genome_lm.inference.memorisation import Memorisation, find_memorised
from genome_lm.inference.model import GenomeLM, load
from genome_lm.inference.one_hot import OneHot
from genome_lm.inference.pooling import POOLS
from genome_lm.inference.variants import Layout, score_variants

__all__ = [
    "BATCH_TOKENS",
    "POOLS",
    "Generated",
    "GenomeLM",
    "Layout",
    "Memorisation",
    "OneHot",
    "Recipe",
    "encode_one",
    "find_memorised",
    "head_outputs",
    "load",
    "padded_batches",
    "pooled",
    "predictions",
    "score_variants",
    "write_generated",
]
