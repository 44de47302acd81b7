"""An exponential moving average of a model's weights."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from genome_lm.model import HyenaLM


class WeightAverage:
    """Follows a model that is trained, step by step; float32, as the weights are.

    After step n = 0, 1, … the average is a ← k · a + (1 − k) · w with k = min(ema, n / (10 + n)). So it begins with
    the weights after the first step, and weighs about a tenth of the steps taken until `ema` is reached.

    It is no `torch.nn.Module`, so that the module that holds it does not train, shard or save it as a part.

    Attributes:
        model: The model with the averaged weights, without dropout.
    """

    def __init__(self, model: HyenaLM, ema: float) -> None:
        @torch.no_grad()
        def move(averages: Any, weights: Any, steps: Tensor | int) -> None:
            torch._foreach_lerp_(averages, weights, 1 - min(ema, float(steps) / (10 + float(steps))))

        self._averaged = AveragedModel(model, multi_avg_fn=move)
        self.model = cast(HyenaLM, self._averaged.module.eval())

    def update(self, model: HyenaLM) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of steps."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._averaged.load_state_dict(state)


def averaged_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The model's weights in a `WeightAverage.state_dict`."""
    return {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
