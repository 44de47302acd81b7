"""An operator in one file: an exponential moving average, by its definition alone."""

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.model.mixer import Mixer


class DecayMixer(Mixer):
    """y[t] = out_proj(Σ_{s ≤ t} decay^(t − s) · in_proj(x[s])), with a decay per channel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.d_model, config.d_model)
        self.decay = nn.Parameter(torch.linspace(-2, 2, config.d_model))
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for now in self.in_proj(x).unbind(1):
            state = self.decay.sigmoid() * state + now
            states.append(state)
        return self.out_proj(torch.stack(states, dim=1))
