"""What a model is: its shape, and the published sizes by name."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genome_lm.errors import GenomeLMError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a HyenaDNA model (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794).

    Attributes:
        d_model: Width of the residual stream.
        n_layer: Number of blocks.
        max_length: Context in bases. The filters span `filter_length` positions, two more than this, the room that
            the original left for [CLS] and [SEP]; the model takes as many tokens.
        d_inner: Width inside the MLP; 0 stands for 4 · d_model.
        order: Order of the Hyena recurrence; order − 1 long convolutions a block.
        short_filter_order: Taps of the depthwise convolution after the in-projection.
        emb_dim: Positional features of the implicit filter: t and (emb_dim − 1)/2 pairs of cos and sin; odd.
        filter_order: Width of the implicit filter's MLP.
        num_inner_mlps: Hidden layers of that MLP after its first.
        sine_frequency: Initial frequency of its sine activations.
        layer_norm_epsilon: Added to the variance in every LayerNorm.
        embed_dropout: Dropout after the embedding, in training.
        resid_dropout: Dropout before each residual addition, in training.
    """

    d_model: int
    n_layer: int
    max_length: int
    d_inner: int = 0
    order: int = 2
    short_filter_order: int = 3
    emb_dim: int = 5
    filter_order: int = 64
    num_inner_mlps: int = 2
    sine_frequency: float = 10.0
    layer_norm_epsilon: float = 1e-5
    embed_dropout: float = 0.1
    resid_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.d_inner == 0:
            object.__setattr__(self, "d_inner", 4 * self.d_model)
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise GenomeLMError(f"model config: {name} is {value}, must be at least {least}")
        if self.emb_dim % 2 == 0:
            raise GenomeLMError(
                f"model config: emb_dim is {self.emb_dim}, must be odd (t, then pairs of cos and sin)"
            )
        for name in ("embed_dropout", "resid_dropout"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise GenomeLMError(f"model config: {name} is {value}, must be in [0, 1)")

    @property
    def filter_length(self) -> int:
        """Positions that the long filters span; the most tokens that the model takes."""
        return self.max_length + 2

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`.

        Raises:
            GenomeLMError: On an unknown or a missing field, or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        if unknown := sorted(values.keys() - known):
            raise GenomeLMError(
                f"model config: unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        if missing := sorted(required - values.keys()):
            raise GenomeLMError(f"model config: missing field {', '.join(missing)}")
        return cls(**values)


_LEAST = {
    "d_model": 1, "n_layer": 1, "max_length": 1, "d_inner": 1, "order": 2, "short_filter_order": 1, "emb_dim": 3,
    "filter_order": 1, "num_inner_mlps": 0,
}  # fmt: skip

PRESETS = {
    name: ModelConfig(**shape)
    for name, shape in json.loads(Path(__file__).with_name("presets.json").read_text()).items()
}
"""The seven published sizes; the workflow, which may run where this package is not installed, reads the same file."""
