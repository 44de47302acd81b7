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
from genome_lm.model.upsampling import Upsampling
from genome_lm.strands import HeadStrands
from genome_lm.typed import Positive, Within, check_fields, typed

Task = Literal["classification", "multilabel", "regression", "tokens", "tracks"]
TrackLoss = Literal["poisson", "multinomial", "mse"]
HeadPool = Literal["mean", "last", "max", "masked", "layers", "bases", "none"]
Pair = Literal["none", "difference", "concatenation"]
Opposites = Literal["names", "none"]
PER_LAYER = {"layers": 3, "bases": 4}
"""Pools that take the states after every block, and values of each of their channels."""
ONE_SIDED = ("last", "bases")
"""Pools that take other positions of the reverse complement."""
TOTAL_WEIGHT = 0.2
"""Of a window's total beside its distribution over the bins, as in Borzoi (Linder et al. 2025,
https://doi.org/10.1038/s41588-024-02053-6)."""
_NO_RATE = -1e9
"""Logarithm of a rate of zero, finite so that its gradient is."""
TASKS: tuple[str, ...] = get_args(Task)
HEAD_POOLS: tuple[str, ...] = get_args(HeadPool)


@dataclass(frozen=True)
class Bins:
    """Where the outputs of a head of tracks lie, and what it was trained by.

    Attributes:
        size: Bases of a bin.
        context: Bases at each end of a sequence that are read, and have no bins.
        window: Bases of a sequence in training, context among them.
        loss: "poisson" (of values over their track's mean, with outputs as logarithms of rates), "multinomial" (of
            how a window's total lies over its bins, and Poisson of the total, see `TOTAL_WEIGHT`), or "mse" (of
            standardised values).
        stride: Bases over which states are pooled before a transposed convolution goes back to bins, see
            `Upsampling`; 0 for the mean of each bin's states alone. Sequences are whole strides.
    """

    size: Positive
    context: Annotated[int, Within(0, 2**31)]
    window: Positive
    loss: TrackLoss = "poisson"
    stride: Annotated[int, Within(0, 2**31)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "bins")
        if self.stride and (self.stride <= self.size or self.stride % self.size or self.context % self.size):
            raise GenomeLMError(
                f"--track-stride {self.stride:,}: it has to be two or more whole bins of {self.size:,} bases, and "
                f"the context of {self.context:,} whole bins too; leave it out to pool each bin's own states"
            )
        self.check_length("bins: window", self.window)

    def check_length(self, name: str, length: int) -> None:
        """Raise a `GenomeLMError` if a sequence of so many bases isn't cut into bins."""
        inner = length - 2 * self.context
        if inner < self.size or inner % self.size:
            raise GenomeLMError(
                f"{name}: {length:,} bases are not 2 · {self.context:,} of context and bins of {self.size:,}"
            )
        if self.stride and length % self.stride:
            raise GenomeLMError(f"{name}: {length:,} bases are not whole strides of {self.stride:,} (--track-stride)")


@dataclass(frozen=True)
class HeadConfig:
    """What a head predicts, and from what.

    Attributes:
        task: "classification" (one of the outputs), "multilabel" (each on its own), "regression" (values),
            "tokens" (one of the outputs at each position), or "tracks" (values of each bin).
        outputs: Names of the classes, labels or values, in the order of the head's outputs.
        pool: How the states of a sequence become one vector: "mean", "last" (which alone has seen all of it), "max",
            "masked" (mean over the positions that are A, C, G or T), "layers" (mean, standard deviation and maximum
            of the states after each block, the last one's after the final norm), "bases" (of the same states, the sum
            over the positions before an A, and before C, G and T, over the length: which words are followed by what),
            or "none": an output at each position, for tokens and for values of each base (regression), or in each bin
            of the mean of its states, for tracks.
        strand: "both" averages the outputs with those of the reverse complement, see `Head.mean_of_strands`.
        prompt: Vectors of a soft prompt before each sequence (Lester et al. 2021,
            https://arxiv.org/abs/2104.08691; HyenaDNA, section 3.3).
        means: Of the values in training, which the outputs are added to (regression; tracks by mse; else 0).
        scales: Standard deviations of the values in training, which the outputs are multiplied by (likewise). Of
            tracks with rates, the means, which the rates are multiplied by.
        condition: Which of the model's conditions the sequences were read under, see `ModelConfig`; None for none.
        opposites: Which outputs take each other's place on the other strand: with "names" those whose names differ
            in the + or - at their end alone, such as exon+ and exon-. The others, with "none" all, keep theirs.
        bins: Of tracks.
        pair: Of pairs of sequences, what the head sees of their pooled states: "difference" (the second's less the
            first's) or "concatenation"; "none" for single sequences.
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
    bins: Bins | None = None
    pair: Pair = "none"

    def __post_init__(self) -> None:
        check_fields(self, "head config")
        if (self.task in ("tokens", "tracks")) != (self.pool == "none") and self.task != "regression":
            raise GenomeLMError(
                f"task {self.task} with pool {self.pool}: tokens and tracks go with none, and none with them"
            )
        if (self.task == "tracks") != (self.bins is not None):
            raise GenomeLMError(f"head config: task {self.task}: tracks have bins, and nothing else has")
        if self.pair != "none" and self.pool == "none":
            raise GenomeLMError(f"pair {self.pair}: pairs have no labels at each position; use a pool")
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
        numbers = len(self.outputs) if self.has_values else 0
        if (len(self.means), len(self.scales)) != (numbers, numbers) or min(self.scales, default=1) <= 0:
            raise GenomeLMError(
                f"head config: task {self.task} with outputs {len(self.outputs)}, means {len(self.means)} and scales "
                f"{len(self.scales)}: values need one of each per output, scales above 0; other tasks have none"
            )

    @property
    def per_position(self) -> bool:
        """Whether there is an output at each position, or in each bin."""
        return self.pool == "none"

    @property
    def opposite_numbers(self) -> list[int]:
        """Of each output, the number of the one that takes its place on the other strand; its own where none does."""
        return [self.outputs.index(self._opposite(name)) for name in self.outputs]

    def _opposite(self, name: str) -> str:
        other = {"+": "-", "-": "+"}.get(name[-1:]) if self.opposites == "names" else None
        return name if other is None else name[:-1] + other

    @property
    def has_values(self) -> bool:
        """Whether the outputs are values, no probabilities."""
        return self.task in ("regression", "tracks")

    @property
    def has_rates(self) -> bool:
        """Whether the outputs are logarithms of rates."""
        return self.bins is not None and self.bins.loss != "mse"

    def rows(self, length: int) -> int:
        """Outputs of each name that a sequence of so many bases has, where `per_position`."""
        return length if self.bins is None else (length - 2 * self.bins.context) // self.bins.size

    def positions(self, rows: int) -> range:
        """The base of a sequence that each of its outputs belongs to: the first one of a bin."""
        return range(rows) if self.bins is None else range(self.bins.context, 2**62, self.bins.size)[:rows]

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
    """A linear layer on the model's states, and a soft prompt or an upsampling if the model was tuned with one."""

    def __init__(self, config: HeadConfig, model: ModelConfig) -> None:
        super().__init__()
        self.config = config
        states, self._width = model.state_width, model.d_model
        width = PER_LAYER[config.pool] * model.n_layer * states if config.pool in PER_LAYER else states
        width *= 2 if config.pair == "concatenation" else 1
        self.out = nn.Linear(width, len(config.outputs))
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.prompt = nn.Parameter(torch.randn(config.prompt, model.d_model) * 0.02) if config.prompt else None
        bins = config.bins
        self.upsampling = Upsampling(states, bins.size, bins.stride) if bins is not None and bins.stride else None
        is_equivariant = states > self._width and self.upsampling is None  # which mixes the halves
        self.has_both_strands = config.strand == "both" and is_equivariant and config.pool not in ONE_SIDED
        """Whether the states of one strand are all that the outputs of both need: equivariant models have both."""
        self.reads_other_strand = config.strand == "both" and not self.has_both_strands
        """Whether the reverse complement is to be read too."""

    def features(self, backbone: HyenaBackbone, ids: Tensor, lengths: Tensor) -> Tensor:
        """Pooled states: (B, L) ids padded on the right, (B,) lengths → (B, d), or (B, rows, d) at each position.

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
        if (bins := self.config.bins) is not None:
            rows = self.config.rows(states.shape[1])
            if self.upsampling is not None:
                return self.upsampling(states, lengths)[:, bins.context // bins.size :][:, :rows]
            inner = states[:, bins.context : bins.context + rows * bins.size]
            return inner.unflatten(1, (rows, bins.size)).mean(2)
        if self.config.per_position:
            return states
        if self.config.pool == "last":
            return states[torch.arange(len(ids), device=ids.device), lengths - 1]
        if self.config.pool == "max":
            return states.masked_fill(~inside[..., None], -torch.inf).amax(1)
        counted = inside * _bases(ids).sum(-1) if self.config.pool == "masked" else inside
        return (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)

    def forward(self, backbone: HyenaBackbone, ids: Tensor, lengths: Tensor) -> Tensor:
        """Outputs before the softmax, sigmoid or scaling: (B, outputs), or (B, rows, outputs) at each position."""
        return self.outputs_of(self.features(backbone, ids, lengths))

    def paired(self, first: Tensor, second: Tensor) -> Tensor:
        """What the head sees of pairs, from the pooled states of their two sequences, (n, d) each."""
        return second - first if self.config.pair == "difference" else torch.cat([first, second], dim=-1)

    def outputs_of(self, features: Tensor) -> Tensor:
        """`forward` from pooled states, of pairs from what `paired` gives."""
        outputs: Tensor = self.out(features)
        if not self.has_both_strands:
            return outputs
        return self.mean_of_strands(outputs, self.out(self.features_of_other_strand(features)))

    def features_of_other_strand(self, features: Tensor) -> Tensor:
        """Pooled states of an equivariant model as those of the reverse complement: with the halves exchanged."""
        return features.unflatten(-1, (-1, 2, self._width)).flip(-2).flatten(-3)

    def mean_of_strands(self, own: Tensor, other: Tensor) -> Tensor:
        """The mean of outputs, (…, outputs), and of those of the reverse complement, opposites being exchanged.

        Values are averaged in their units, since opposites have scales of their own; of rates it is the logarithms.
        """
        places = self.config.opposite_numbers
        if not self.config.has_values:
            return (own + other[..., places]) / 2
        if self.config.has_rates:
            scales = own.new_tensor(self.config.scales)
            return (own + other[..., places] + (scales[places] / scales).log()) / 2
        return (own + self._scaled(self.predictions(other)[..., places])) / 2

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities, or values in the units of the labels, from what `forward` gives; the same shape."""
        if self.config.task == "multilabel":
            return outputs.sigmoid()
        if self.config.has_rates:
            return outputs.exp() * outputs.new_tensor(self.config.scales)
        if self.config.has_values:
            return outputs * outputs.new_tensor(self.config.scales) + outputs.new_tensor(self.config.means)
        return outputs.softmax(-1)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Summed loss, (): cross-entropy in nats, or the squared error of scaled values; of tracks see `Bins`.

        Args:
            outputs: (N, outputs), of sequences or of positions; of tracks (…, bins, outputs), window by window.
            targets: (N,) int64 classes, or float32 of the shape of `outputs`; a class below 0 and a NaN do not count.
            weights: (outputs,) weight of each class, or of the positive cases of each label; 1 if None.
        """
        if self.config.task in ("classification", "tokens"):
            losses = F.cross_entropy(outputs, targets.clamp(min=0), reduction="none")
            return (losses * self.target_weights(targets, weights)).sum()
        if self.config.bins is not None and self.config.has_rates:
            return self._rate_loss(outputs, targets, self.config.bins.loss)
        values = targets.nan_to_num()
        if self.config.task == "multilabel":
            losses = F.binary_cross_entropy_with_logits(outputs, values, reduction="none", pos_weight=weights)
        else:
            losses = (outputs - self._scaled(values)).square()
        return (losses * self.target_weights(targets, weights)).sum()

    def _scaled(self, values: Tensor) -> Tensor:
        """The inverse of `predictions` of values that are no rates."""
        return (values - values.new_tensor(self.config.means)) / values.new_tensor(self.config.scales)

    def _rate_loss(self, outputs: Tensor, targets: Tensor, loss: TrackLoss) -> Tensor:
        """Losses of logarithms of rates, up to what the targets alone add."""
        counted = ~targets.isnan()
        values = targets.nan_to_num() / targets.new_tensor(self.config.scales)
        if loss == "poisson":
            return ((outputs.exp() - values * outputs) * counted).sum()
        outputs = outputs.masked_fill(~counted, _NO_RATE)
        rate, total = outputs.logsumexp(-2, keepdim=True), values.sum(-2, keepdim=True)
        return (values * (rate - outputs)).sum() + TOTAL_WEIGHT * (rate.exp() - total * rate).sum()

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
