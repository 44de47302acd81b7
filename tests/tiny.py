"""A model, and a recipe to train it by, that take seconds."""

from genome_lm.config import ModelConfig
from genome_lm.training import Stage, TrainingConfig

TINY_MODEL = ModelConfig(d_model=16, n_layer=2, max_length=128, filter_order=8)
TINY_RECIPE = TrainingConfig(
    stages=(Stage(32, 30), Stage(128, 30)), tokens_per_step=512, lr=5e-3, valid_every=20, checkpoint_every=7
)
