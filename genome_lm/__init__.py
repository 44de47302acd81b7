"""Language models of DNA with implicit long convolutions: data, training, inference, evaluation."""

from importlib.metadata import version

__version__ = version("genome-lm")
