"""The implicit long filter of a Hyena operator."""

import math

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig

FAST_DECAY, SLOW_DECAY, DECAY_TARGET, WINDOW_SHIFT = 0.3, 1.5, 1e-2, 0.05
"""The window falls to `DECAY_TARGET` at these fractions of the span, in the fastest and the slowest channel."""


class ImplicitFilter(nn.Module):
    """Filters as a function of position: an MLP with sine activations on positional features, times a window.

    h_c(t) = MLP(z(t))_c · (exp(−t · |δ_c|) + 0.05) with t running from 0 to 1 over `filter_length` positions
    (Poli et al. 2023, https://arxiv.org/abs/2302.10866, sections 3.3 and D.3). The frequencies of the sines are
    learned and shared by all activations of a filter.
    """

    deltas: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.span = config.filter_length
        self.emb_dim = config.emb_dim
        width, channels = config.filter_order, config.d_model * (config.order - 1)
        self.freq = nn.Parameter(torch.full((width,), config.sine_frequency))
        inputs = [config.emb_dim] + [width] * config.num_inner_mlps
        self.hidden = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.out = nn.Linear(width, channels, bias=False)
        decay = math.log(DECAY_TARGET)
        self.register_buffer("deltas", torch.linspace(decay / SLOW_DECAY, decay / FAST_DECAY, channels))

    def features(self, length: int) -> Tensor:
        """Positional features of the first `length` positions: (length, emb_dim) = t, then cos and −sin bands.

        Returned in the dtype of the parameters; computed as the original does, in float32.
        """
        device = self.freq.device
        bands = (self.emb_dim - 1) // 2
        t = torch.linspace(0, 1, self.span, device=device)[:length, None]
        position = torch.linspace(0, self.span - 1, self.span, device=device)[:length, None]
        angle = torch.linspace(1e-4, bands - 1, bands, device=device) * (2 * math.pi * position / self.span)
        return torch.cat([t, torch.cos(angle), -torch.sin(angle)], dim=-1).to(self.freq.dtype)

    def forward(self, length: int) -> Tensor:
        """The filters over the first `length` positions: (channels, length), float32 within autocast too."""
        with torch.autocast(device_type=self.freq.device.type, enabled=False):
            x = z = self.features(length)
            for layer in self.hidden:
                x = torch.sin(self.freq * layer(x))
            window = torch.exp(-self.deltas.abs()[:, None] * z[:, 0]) + WINDOW_SHIFT
            return (self.out.weight @ x.T) * window
