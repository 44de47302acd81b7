"""A longer context for a trained model."""

import dataclasses

import torch

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM


def extend_context(model: HyenaLM, max_length: int) -> HyenaLM:
    """The same weights over a longer span: the filter's time axis is stretched (positional interpolation).

    A HyenaDNA filter is a function of t in [0, 1] over the model's maximal length; so are its positional features and
    its window exp(−t · |δ|) + 0.05. There are two ways to a longer context N' > N:

    - Stretch the axis, as done here: t runs from 0 to 1 over N' positions, so that features and window keep their
      shape, and every input of the filter's MLP stays within what it was trained on. It is what positional
      interpolation does for rotary embeddings (Chen et al. 2023, https://arxiv.org/abs/2306.15595). The filter then
      reaches N'/N times as far and its short-range detail is as many times as wide, so the model is off until it is
      tuned for some hundred steps; with a large factor, go in several steps of tuning.
    - Keep the axis: t = position / N, beyond 1 for new positions. Nothing changes within the old context, but sines
      and window are asked for what they never saw, and their sum over new positions is not small (the window falls to
      0.05, never to zero). This is refused rather than offered: the model would take longer input and read it worse.

    Args:
        model: The model to extend.
        max_length: The new context in bases.

    Returns:
        A new model in eval mode, with copies of all weights.

    Raises:
        GenomeLMError: If the context would not grow.
    """
    if max_length <= model.config.max_length:
        raise GenomeLMError(
            f"a context of {max_length:,} bases is no extension of {model.config.max_length:,}; shorter sequences "
            "need no change"
        )
    config: ModelConfig = dataclasses.replace(model.config, max_length=max_length)
    extended = HyenaLM(config)
    with torch.no_grad():
        extended.load_state_dict(model.state_dict())
    return extended.eval()
