"""Heads of a tuned model: hidden states to classes, labels, or values, of a sequence or of each position."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import NUCLEOTIDES, A, T
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model.backbone import HyenaBackbone
from genome_lm.strands import HeadStrands
from genome_lm.typed import Within, check_fields, typed

Task = Literal["classification", "multilabel", "regression", "tokens"]
HeadPool = Literal["mean", "last", "max", "masked", "layers", "bases", "none"]
Opposites = Literal["names", "none"]
PER_LAYER = {"layers": 3, "bases": 4}
"""Pools that take the states after every block, and values of each of their channels."""
ONE_SIDED = ("last", "bases")
"""Pools that take other positions of the reverse complement."""
TASKS: tuple[str, ...] = get_args(Task)
HEAD_POOLS: tuple[str, ...] = get_args(HeadPool)


@dataclass(frozen=True)
class HeadConfig:
    """What a head predicts, and from what.

    Attributes:
        task: "classification" (one of the outputs), "multilabel" (each on its own), "regression" (values), or
            "tokens" (one of the outputs at each position).
        outputs: Names of the classes, labels or values, in the order of the head's outputs.
        pool: How the states of a sequence become one vector: "mean", "last" (which alone has seen all of it), "max",
            "masked" (mean over the positions that are A, C, G or T), "layers" (mean, standard deviation and maximum
            of the states after each block, the last one's after the final norm), "bases" (of the same states, the sum
            over the positions before an A, and before C, G and T, over the length: which words are followed by what),
            or "none": an output at each position, for tokens, and for tracks (regression).
        strand: "both" averages the outputs with those of the reverse complement, see `Head.mean_of_strands`.
        prompt: Vectors of a soft prompt before each sequence (Lester et al. 2021,
            https://arxiv.org/abs/2104.08691; HyenaDNA, section 3.3).
        means: Of the values in training, which the outputs are added to (regression).
        scales: Standard deviations of the values in training, which the outputs are multiplied by (regression).
        condition: Which of the model's conditions the sequences were read under, see `ModelConfig`; None for none.
        opposites: Which outputs take each other's place on the other strand: with "names" those whose names differ
            in the + or - at their end alone, such as exon+ and exon-. The others, with "none" all, keep theirs.
    """

    task: Task
    outputs: tuple[str, ...]
    pool: HeadPool = "mean"
    strand: HeadStrands = "forward"
    prompt: Annotated[int, Within(0, 2**20)] = 0
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    condition: str | None = None
    opposites: Opposites = "none"

    def __post_init__(self) -> None:
        check_fields(self, "head config")
        if (self.task == "tokens") != (self.pool == "none") and self.task != "regression":
            raise GenomeLMError(f"task {self.task} with pool {self.pool}: tokens go with none, and none with tokens")
        if not self.outputs or (self.task in ("classification", "tokens") and len(self.outputs) < 2):
            raise GenomeLMError(
                f"task {self.task}: only {', '.join(self.outputs) or 'no'} labels; nothing to tell apart"
            )
        if self.pool in PER_LAYER and self.prompt:
            raise GenomeLMError(f"pool {self.pool} does not go with a soft prompt: use mean, last, max or masked")
        if len(set(self.outputs)) < len(self.outputs):
            raise GenomeLMError("head config: outputs are not all different")
        for name in self.outputs:
            if (other := self._opposite(name)) not in self.outputs:
                raise GenomeLMError(f"opposites names: there is {name}, but no {other} for the other strand")
        numbers = len(self.outputs) if self.task == "regression" else 0
        if (len(self.means), len(self.scales)) != (numbers, numbers) or min(self.scales, default=1) <= 0:
            raise GenomeLMError(
                f"head config: task {self.task} with outputs {len(self.outputs)}, means {len(self.means)} and scales "
                f"{len(self.scales)}: regression needs one of each per output, scales above 0; other tasks have none"
            )

    @property
    def per_position(self) -> bool:
        """Whether there is an output at each position."""
        return self.pool == "none"

    @property
    def opposite_numbers(self) -> list[int]:
        """Of each output, the number of the one that takes its place on the other strand; its own where none does."""
        return [self.outputs.index(self._opposite(name)) for name in self.outputs]

    def _opposite(self, name: str) -> str:
        other = {"+": "-", "-": "+"}.get(name[-1:]) if self.opposites == "names" else None
        return name if other is None else name[:-1] + other

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HeadConfig":
        """The inverse of `to_dict`.

        Raises:
            GenomeLMError: On an unknown or a missing field, or a value out of range.
        """
        return typed(cls, values, "head config")


class Head(nn.Module):
    """A linear layer on the model's states, and a soft prompt if the model was tuned with one."""

    def __init__(self, config: HeadConfig, model: ModelConfig) -> None:
        super().__init__()
        self.config = config
        states, self._width = model.state_width, model.d_model
        width = PER_LAYER[config.pool] * model.n_layer * states if config.pool in PER_LAYER else states
        self.out = nn.Linear(width, len(config.outputs))
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.prompt = nn.Parameter(torch.randn(config.prompt, model.d_model) * 0.02) if config.prompt else None
        is_equivariant = states > self._width
        self.has_both_strands = config.strand == "both" and is_equivariant and config.pool not in ONE_SIDED
        """Whether the states of one strand are all that the outputs of both need: equivariant models have both."""
        self.reads_other_strand = config.strand == "both" and not self.has_both_strands
        """Whether the reverse complement is to be read too."""

    def features(self, backbone: HyenaBackbone, ids: Tensor, lengths: Tensor) -> Tensor:
        """Pooled states: (B, L) ids padded on the right, (B,) lengths → (B, d), or (B, L, d) unpooled.

        For ids there may be weights, see `HyenaBackbone.forward`. d is that of a state, with "layers" 3 and with
        "bases" 4 · n_layer times as many.
        """
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        if self.config.pool in PER_LAYER:
            pooled = _moments if self.config.pool == "layers" else partial(_before_bases, ids=ids)
            layers = [*range(1, backbone.config.n_layer), None]
            each = [pooled(states, inside) for _, states in backbone.every_layer(ids, layers)]
            return torch.cat(each, dim=1).to(self.out.weight.dtype)
        states = backbone(ids, prompt=self.prompt).to(self.out.weight.dtype)[:, self.config.prompt :]
        if self.config.per_position:
            return states
        if self.config.pool == "last":
            return states[torch.arange(len(ids), device=ids.device), lengths - 1]
        if self.config.pool == "max":
            return states.masked_fill(~inside[..., None], -torch.inf).amax(1)
        counted = inside * _bases(ids).sum(-1) if self.config.pool == "masked" else inside
        return (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)

    def forward(self, backbone: HyenaBackbone, ids: Tensor, lengths: Tensor) -> Tensor:
        """Outputs before the softmax, sigmoid or scaling: (B, outputs), or (B, L, outputs) at each position."""
        features = self.features(backbone, ids, lengths)
        outputs: Tensor = self.out(features)
        if not self.has_both_strands:
            return outputs
        return self.mean_of_strands(outputs, self.out(self.features_of_other_strand(features)))

    def features_of_other_strand(self, features: Tensor) -> Tensor:
        """Pooled states of an equivariant model as those of the reverse complement: with the halves exchanged."""
        return features.unflatten(-1, (-1, 2, self._width)).flip(-2).flatten(-3)

    def mean_of_strands(self, own: Tensor, other: Tensor) -> Tensor:
        """The mean of outputs, (…, outputs), and of those of the reverse complement, opposites being exchanged.

        Values are averaged in their units, since opposites have scales of their own.
        """
        places = self.config.opposite_numbers
        if self.config.task != "regression":
            return (own + other[..., places]) / 2
        return (own + self._scaled(self.predictions(other)[..., places])) / 2

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities, or values in the units of the labels, from what `forward` gives; the same shape."""
        if self.config.task == "multilabel":
            return outputs.sigmoid()
        if self.config.task == "regression":
            return outputs * outputs.new_tensor(self.config.scales) + outputs.new_tensor(self.config.means)
        return outputs.softmax(-1)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Summed loss, (): cross-entropy in nats, or the squared error of scaled values.

        Args:
            outputs: (N, outputs), of sequences or of positions.
            targets: (N,) int64 classes, or (N, outputs) float32; a class below 0 and a NaN do not count.
            weights: (outputs,) weight of each class, or of the positive cases of each label; 1 if None.
        """
        if self.config.task in ("classification", "tokens"):
            losses = F.cross_entropy(outputs, targets.clamp(min=0), reduction="none")
            return (losses * self.target_weights(targets, weights)).sum()
        values = targets.nan_to_num()
        if self.config.task == "multilabel":
            losses = F.binary_cross_entropy_with_logits(outputs, values, reduction="none", pos_weight=weights)
        else:
            losses = (outputs - self._scaled(values)).square()
        return (losses * self.target_weights(targets, weights)).sum()

    def _scaled(self, values: Tensor) -> Tensor:
        """The inverse of `predictions` in regression."""
        return (values - values.new_tensor(self.config.means)) / values.new_tensor(self.config.scales)

    def target_weights(self, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Weight of each target in the loss, 0 where it does not count: the shape of `targets`, float32."""
        if self.config.task in ("classification", "tokens"):
            counted = (targets >= 0).float()
            return counted if weights is None else weights[targets.clamp(min=0)] * counted
        return (~targets.isnan()).float()


def _moments(states: Tensor, inside: Tensor) -> Tensor:
    """Mean, standard deviation and maximum over the positions that are inside: (B, L, D) → (B, 3 D)."""
    counted, count = inside[..., None], inside.sum(1, keepdim=True)
    mean = (states * counted).sum(1) / count
    variance = ((states - mean[:, None]).square() * counted).sum(1) / count
    # The root of zero, of a single position, has no gradient.
    return torch.cat([mean, (variance + 1e-6).sqrt(), states.masked_fill(~counted, -torch.inf).amax(1)], dim=1)


def _before_bases(states: Tensor, inside: Tensor, ids: Tensor) -> Tensor:
    """Sum over the positions that a base follows, for each base, over the length: (B, L, D) → (B, 4 D)."""
    counted = (_bases(ids[:, 1:]) * inside[:, 1:, None]).to(states.dtype)
    return (counted.mT @ states[:, :-1]).flatten(1) / inside.sum(1, keepdim=True)


def _bases(ids: Tensor) -> Tensor:
    """Which of A, C, G and T each token is, or its weights of them: (B, L) or (B, L, 16) → (B, L, 4)."""
    return ids[..., A : T + 1] if ids.is_floating_point() else ids[..., None] == ids.new_tensor(NUCLEOTIDES)
