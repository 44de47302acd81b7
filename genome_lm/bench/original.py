"""HyenaDNA computed the way the original computes it, to measure against.

Every operation is whole: streams are (batch, length, channels), turned for the convolutions and back; the filter is
made anew at each call; the FFT takes exactly twice the length; all logits exist at one time. It has the weights of a
`HyenaLM` and gives the same numbers (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794; Poli et al. 2023,
https://arxiv.org/abs/2302.10866).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.filter import WINDOW_SHIFT, ImplicitFilter
from genome_lm.model.mixers.hyena import HyenaOperator


def refuse_other_models(config: ModelConfig) -> None:
    """Raise a `GenomeLMError` for a model that the original's program is not measured with."""
    if (config.order, config.layout) != (2, "hyena"):
        raise GenomeLMError(f"the original has layout hyena and order 2, not {config.layout} and {config.order}")
    if config.ngram_order:
        raise GenomeLMError("the original has no embeddings of n-grams (ngram_order)")


class OriginalLM(nn.Module):
    """The original's way through the weights of a model of order 2.

    Raises:
        GenomeLMError: If the model is of another order.
    """

    features: Tensor
    times: Tensor

    def __init__(self, model: HyenaLM) -> None:
        super().__init__()
        refuse_other_models(model.config)
        self.model = model
        # The positional features are the same in all filters.
        long_filter = next(module for module in model.modules() if isinstance(module, ImplicitFilter))
        span = model.config.filter_length
        self.register_buffer("features", long_filter.features(span)[None], persistent=False)
        self.register_buffer("times", long_filter.times(span)[None, :, None], persistent=False)

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self.model.config

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position: (B, L) ids → (B, L, 16)."""
        backbone = self.model.backbone
        residual = backbone.dropout(backbone.embedding(ids))
        for block in backbone.blocks:
            assert isinstance(block.mixer, HyenaOperator)
            residual = residual + self._mixer(block.norm1(residual), block.mixer)
            hidden = F.gelu(block.mlp.fc1(block.norm2(residual)), approximate="tanh")
            residual = residual + block.mlp.fc2(hidden)
        return F.linear(backbone.norm(residual), backbone.embedding.weight)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy averaged over all targets, (B, L) both, from all logits at one time."""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    def _mixer(self, x: Tensor, mixer: HyenaOperator) -> Tensor:
        length, taps = x.shape[1], mixer.short_conv.kernel_size[0]
        z = mixer.in_proj(x).transpose(1, 2)
        z = F.conv1d(
            z, mixer.short_conv.weight, mixer.short_conv.bias, padding=taps - 1, groups=mixer.short_conv.groups
        )
        x0, x1, v = z[..., :length].split(x.shape[2], dim=1)
        h = self._filter(length, mixer.filter)[0].transpose(0, 1)
        y = x0 * _convolve(v * x1, h, mixer.filter_bias)
        return mixer.out_proj(y.transpose(1, 2).contiguous())

    def _filter(self, length: int, long_filter: ImplicitFilter) -> Tensor:
        """The filters at all positions: (1, length, channels)."""
        h = self.features[:, :length]
        for layer in long_filter.hidden:
            h = torch.sin(long_filter.freq * layer(h))
        window = torch.exp(-self.times[:, :length] * long_filter.deltas.abs()) + WINDOW_SHIFT
        return long_filter.out(h) * window


def _convolve(u: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    length = u.shape[-1]
    size = 2 * length
    spectrum = torch.fft.rfft(h, n=size) / size
    y = torch.fft.irfft(torch.fft.rfft(u, n=size) * spectrum, n=size, norm="forward")[..., :length]
    return y + u * bias[:, None]
