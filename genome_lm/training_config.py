"""How a model is trained: the recipe, its stages, and the learning rate at each step."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.typed import Fraction, Positive, Seed, Within, check_fields, typed

Precision = Literal["float32", "bf16-mixed"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd"]
Rate = Annotated[float, Within(0, 1_000, exclusive=True)]
Decay = Annotated[float, Within(0, 1_000)]
Beta = Annotated[float, Within(0, 0.999_999_999)]
Clip = Annotated[float, Within(0, 1e12, exclusive=True)]
ClipFactor = Annotated[float, Within(0, 1e12)]


class Stage(NamedTuple):
    """A part of the training with windows of one length."""

    length: Positive
    steps: Positive


class StepPlan(NamedTuple):
    """What a step is made of: samples [first_sample, first_sample + batch) of its stage's window length."""

    stage: int
    length: int
    batch: int
    first_sample: int


@dataclass(frozen=True)
class CopiesConfig:
    """Training windows in which a segment stands twice, so that the model learns to recall.

    Training losses are then lower than those of real sequence; validations see real sequence alone.

    Attributes:
        fraction: Of the windows that hold a copy.
        length: Fewest and most bases of a segment.
        distance: Fewest and most bases between the two, as far as the window has room.
        reverse_fraction: Of the copies that are reverse complements.
    """

    fraction: Fraction
    length: tuple[Positive, Positive] = (32, 512)
    distance: tuple[Positive, Positive] = (16, 16_384)
    reverse_fraction: Fraction = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "copies")
        for name, (least, most) in (("length", self.length), ("distance", self.distance)):
            if least > most:
                raise GenomeLMError(f"copies: {name} is {least:,} to {most:,}; give the fewest bases first")

    @property
    def least_window(self) -> int:
        """Bases of the shortest window that has room for a copy."""
        return 2 * self.length[0] + self.distance[0]


@dataclass(frozen=True)
class MaskingConfig:
    """Which bases are hidden from a model that reads both ways, and how (Devlin et al. 2019, arXiv 1810.04805).

    Attributes:
        fraction: Of the bases that are hidden; the loss is their mean.
        masked: Of the hidden ones, in whose place stands [MASK].
        random: Of the hidden ones, in whose place stands a random base. The others stay as they are.
        span: Mean bases of a run of hidden ones, at least 1 / (1 − fraction). Each run is hidden in one way. 0 hides
            each base by itself.
    """

    fraction: Fraction = 0.15
    masked: Fraction = 0.8
    random: Fraction = 0.1
    span: Annotated[float, Within(0, 1e6)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "masking")
        if not 0 < self.fraction < 1:
            raise GenomeLMError(f"masking: fraction is {self.fraction:g}, must be between 0 and 1")
        if self.masked + self.random > 1:
            raise GenomeLMError(
                f"masking: masked {self.masked:g} and random {self.random:g} are more than all; their sum must be at "
                "most 1"
            )
        if self.span and self.span < (least := 1 / (1 - self.fraction)):
            raise GenomeLMError(
                f"masking: span is {self.span:g}, must be at least {least:.3g} at fraction {self.fraction:g}, or 0"
            )

    @property
    def chain(self) -> tuple[float, float]:
        """Probability that a base is hidden after one that is not, and after one that is."""
        if not self.span:
            return self.fraction, self.fraction
        return self.fraction / (1 - self.fraction) / self.span, 1 - 1 / self.span


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe, by default HyenaDNA's but for beta2 and the warm-up.

    HyenaDNA's (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794, appendix A) are 0.999 and 1 %, with which the
    loss of small runs spikes.

    Attributes:
        stages: Sequence-length warm-up: windows of growing length, one stage after the other.
        tokens_per_step: Bases in a step at every length, so that short windows come in larger batches.
        device_tokens: Bases that go through the model at one time; a step is summed up from such pieces.
        optimizer: "adamw" for all weights, or "muon" for the matrices of the blocks and AdamW for the rest, see
            `genome_lm.training.optimizers`. One `lr` fits both.
        lr: Peak learning rate.
        filter_lr: Peak learning rate of the filters' MLPs, at most; theirs is `lr` where that is lower.
        schedule: What follows the warm-up: "cosine" falls to the last step. "wsd" (warm-up–stable–decay) stays at the
            peak, then falls.
        final_lr_fraction: The last step has this fraction of the peak.
        warmup_fraction: Fraction of all steps over which the rate rises from zero.
        decay_fraction: Fraction of all steps, the last ones, over which the rate falls; of "wsd" alone.
        weight_decay: On matrices outside the filters.
        beta1: Of AdamW.
        beta2: Of AdamW.
        clip: Largest norm of the gradient.
        clip_factor: Also clip to this multiple of the median norm of the last 50 steps; 0 does not. See
            `genome_lm.training.spikes.NormLimit`.
        ema: The checkpoint holds, and validations measure, a moving average of the weights that keeps this fraction
            of itself in each step; 0 is no average. See `genome_lm.training.averaging`.
        soft_mask_weight: Weight of a soft-masked (lower-case) base in the loss; 1 counts it as any other.
        reverse_complement: Draw each window from either strand.
        max_n_fraction: Windows with more N than this are left out.
        copies: Windows in which a segment stands twice; None for none.
        masking: Which bases are hidden; None for causal models. A run on one of direction both takes the defaults
            where none are given.
        precision: "float32", or "bf16-mixed": products of the projections and the MLP in bfloat16, within autocast.
            On a CPU it is quicker where there are instructions for it (AMX, AVX-512 BF16).
            Parameters, residual stream, norms, filters, logits, loss, and the validations stay in float32. So do the
            FFTs on a CPU and those of torch.fft; the Triton kernels on a GPU transform in bfloat16 with sums in
            float32 (relative error of the convolution about 6e-3, see `genome_lm.kernels.triton.conv`).
        activation_checkpointing: Recompute each block in the backward pass: less memory, more time.
        valid_every: Steps between two validations.
        valid_windows: Windows of the validation split, spread evenly over it.
        checkpoint_every: Steps between two saves.
        seed: Of initialisation, sampling and dropout.
    """

    stages: tuple[Stage, ...]
    tokens_per_step: Positive = 262_144
    device_tokens: Positive = 32_768
    optimizer: OptimizerName = "adamw"
    lr: Rate = 6e-4
    filter_lr: Rate = 1e-3
    schedule: Schedule = "cosine"
    final_lr_fraction: Fraction = 0.1
    warmup_fraction: Fraction = 0.05
    decay_fraction: Fraction = 0.2
    weight_decay: Decay = 0.1
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    clip: Clip = 1.0
    clip_factor: ClipFactor = 0.0
    ema: Beta = 0.0
    soft_mask_weight: Fraction = 1.0
    reverse_complement: bool = True
    max_n_fraction: Fraction = 0.5
    copies: CopiesConfig | None = None
    masking: MaskingConfig | None = None
    precision: Precision = "float32"
    activation_checkpointing: bool = False
    valid_every: Positive = 200
    valid_windows: Positive = 64
    checkpoint_every: Positive = 200
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self, "training config")
        if not self.stages:
            raise GenomeLMError("training config: no stages; give at least one length:steps")
        if self.copies is not None and self.copies.least_window > (most := max(s.length for s in self.stages)):
            raise GenomeLMError(
                f"training config: copies take windows of {self.copies.least_window:,} bases, the longest are of "
                f"{most:,}; make copies.length or copies.distance smaller"
            )
        if self.schedule != "wsd" and self.decay_fraction != type(self).decay_fraction:
            raise GenomeLMError("training config: decay_fraction goes with schedule wsd")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise GenomeLMError(
                f"training config: warmup_fraction {self.warmup_fraction:g} and decay_fraction "
                f"{self.decay_fraction:g} are more than all steps; their sum must be at most 1"
            )

    def with_masking(self) -> "TrainingConfig":
        """The same recipe with masks: by default those of `MaskingConfig`."""
        return self if self.masking is not None else dataclasses.replace(self, masking=MaskingConfig())

    @functools.cached_property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def plan(self, step: int) -> StepPlan:
        """What step `step`, 0 … steps − 1, is made of."""
        first, seen = 0, dict.fromkeys((stage.length for stage in self.stages), 0)
        for number, (length, steps) in enumerate(self.stages):
            batch = max(1, self.tokens_per_step // length)
            if step < first + steps:
                return StepPlan(number, length, batch, seen[length] + (step - first) * batch)
            first += steps
            seen[length] += steps * batch
        raise IndexError(f"step {step} of {self.steps}")

    def bases(self, steps: int) -> int:
        """Positions of windows in the first `steps` steps: as many bases where no contig is shorter than a window."""
        total, first = 0, 0
        for length, count in self.stages:
            total += max(0, min(count, steps - first)) * length * max(1, self.tokens_per_step // length)
            first += count
        return total

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, but for filters (`filter_lr`)."""
        return self.lr * self.scheduled(step)

    def scheduled(self, step: int) -> float:
        """The rate of a step as a fraction of the peak: linear warm-up, then by the schedule."""
        common = step, self.steps, self.warmup_fraction, self.final_lr_fraction
        return warmup_stable_decay(*common, self.decay_fraction) if self.schedule == "wsd" else warmup_cosine(*common)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**dataclasses.asdict(self), "stages": [list(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingConfig":
        """The inverse of `to_dict`; stages may also be text, see `parse_stages`.

        Raises:
            GenomeLMError: On an unknown or a missing field, or a value out of range.
        """
        if "stages" not in values:
            raise GenomeLMError("training config: no stages; give --stages length:steps, such as 1024:5000")
        stages = values["stages"]
        stages = parse_stages(stages) if isinstance(stages, str) else stages
        return typed(cls, {**values, "stages": stages}, "training config")


def warmup_cosine(step: int, steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """The rate as a fraction of the peak: linear warm-up, then a cosine from 1 to `final_fraction`."""
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return final_fraction + (1 - final_fraction) * cosine


def warmup_stable_decay(
    step: int, steps: int, warmup_fraction: float, final_fraction: float, decay_fraction: float
) -> float:
    """The rate as a fraction of the peak: linear warm-up, 1, then down to `final_fraction` in the last step.

    It falls as 1 − √progress, which Hägele et al. 2024 (https://arxiv.org/abs/2405.18392) found better than a line.
    """
    warmup, decay = max(1, round(warmup_fraction * steps)), round(decay_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step + 1 - (steps - decay)) / max(1, decay)
    return final_fraction + (1 - final_fraction) * (1 - math.sqrt(min(1.0, max(0.0, progress))))


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages from text such as "1024:5000,8192:2000" (length:steps).

    Raises:
        GenomeLMError: If it is not of this form.
    """
    try:
        return tuple(Stage(*(int(number) for number in part.split(":"))) for part in text.split(","))
    except (ValueError, TypeError):
        raise GenomeLMError(
            f"stages {text!r:.60}: write length:steps, joined by commas, such as 1024:5000,8192:2000"
        ) from None
