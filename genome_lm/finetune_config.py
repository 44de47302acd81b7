"""How a model is tuned."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from genome_lm.errors import GenomeLMError, check_range

Method = Literal["full", "frozen", "lora", "prompt"]
METHODS: tuple[str, ...] = get_args(Method)
_PASSES = {"epochs": (10, 100), "patience": (3, 10)}
"""Defaults where the model is tuned, and where it is frozen and an epoch takes no time."""


@dataclass(frozen=True)
class FinetuneConfig:
    """The recipe of pretraining on labelled data: AdamW in the same groups, warm-up, cosine, clipping.

    Attributes:
        method: "full" tunes everything; "frozen" the head alone, on states computed once (a linear probe); "lora"
            adds matrices of low rank to the projections and the MLPs, merged in the end (Hu et al. 2021,
            https://arxiv.org/abs/2106.09685); "prompt" vectors before each sequence (HyenaDNA, section 3.3).
        epochs: Passes through the training data at most; 0 for 100 where the model is frozen, else 10.
        sequences_per_step: Sequences a step.
        device_tokens: Positions that go through the model at one time; a step is summed up from such pieces.
        lr: Peak learning rate of the model; 0 chooses by the method (see `learning_rate`).
        head_lr: Peak learning rate of the head; 0 for ten times `lr`, or `lr` where the model is
            frozen or the head was fitted first.
        final_lr_fraction: The cosine ends at this fraction of the peak.
        warmup_fraction: Fraction of the steps over which the rates rise from zero.
        weight_decay: Of AdamW, on matrices outside the filters.
        beta1: Of AdamW.
        beta2: Of AdamW.
        clip: Largest norm of the gradient.
        class_weights: Weigh classes by the inverse of how often they occur (positive cases of each label, by the
            ratio of negative to positive ones).
        reverse_complement: Show each training sequence on either strand at random, each time anew.
        metric: What early stopping watches on the validation split: "loss" or a metric of the task; "" chooses MCC,
            AUPRC, or Pearson's r.
        patience: Epochs without a better value after which to stop; 0 for 10 where the model is frozen, else 3.
        lora_rank: Rank of the added matrices.
        lora_alpha: Their scale is alpha / rank.
        prompt_length: Vectors of a soft prompt.
        head_first: Fit the head alone before, as "frozen" does, so that the first steps do not spoil the model for a
            head that knows nothing (Kumar et al. 2022, https://arxiv.org/abs/2202.10054); its rate is then `lr`, and
            that state, epoch 0, is kept if none after it is better.
        neighbours: Pairs of unlabelled windows from which a frozen model's head (or the first one) learns what
            neighbours share, see `genome_lm.finetune.neighbours`; 0 to standardise its input only.
        neighbour_distance: Most bases between the first bases of two neighbours: as far as the label goes.
        seed: Of the head, the order, the strands and the neighbours.
    """

    method: Method = "full"
    epochs: int = 0
    sequences_per_step: int = 32
    device_tokens: int = 32_768
    lr: float = 0.0
    head_lr: float = 0.0
    final_lr_fraction: float = 0.1
    warmup_fraction: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    class_weights: bool = False
    reverse_complement: bool = False
    metric: str = ""
    patience: int = 0
    lora_rank: int = 8
    lora_alpha: float = 16.0
    prompt_length: int = 16
    head_first: bool = False
    neighbours: int = 0
    neighbour_distance: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise GenomeLMError(f"method {self.method!r}: use {', '.join(METHODS)}")
        for name in ("epochs", "patience"):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, _PASSES[name][self.method == "frozen"])
        for name in ("epochs", "sequences_per_step", "device_tokens", "patience", "lora_rank", "prompt_length"):
            if getattr(self, name) < 1:
                raise GenomeLMError(f"finetune config: {name} is {getattr(self, name)}, must be at least 1")
        for name in ("lr", "head_lr", "weight_decay", "lora_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise GenomeLMError(f"finetune config: {name} is {getattr(self, name)}, must be at least 0")
        check_range("finetune config: seed", self.seed, 0, 2**32 - 1)
        if self.head_first and self.method not in ("full", "lora"):
            raise GenomeLMError(f"head_first goes with full and lora; {self.method} fits nothing but the head")
        if self.neighbours < 0 or (self.neighbours and self.method != "frozen" and not self.head_first):
            raise GenomeLMError(
                f"neighbours {self.neighbours}: at least 0, with the method frozen or with head_first"
            )
        if not self.clip > 0:
            raise GenomeLMError(f"finetune config: clip is {self.clip}, must be above 0")
        for name in ("final_lr_fraction", "warmup_fraction", "beta1", "beta2"):
            if not 0 <= getattr(self, name) <= 1:
                raise GenomeLMError(f"finetune config: {name} is {getattr(self, name)}, must be between 0 and 1")

    @property
    def by_neighbours(self) -> bool:
        """Whether this fits a head in neighbours' coordinates, by plain gradient descent."""
        return self.method == "frozen" and self.neighbours > 0

    @property
    def learning_rate(self) -> float:
        """`lr`, or the method's own: 6e-4 in full tuning, 2e-3 for LoRA, 1e-2 for the others, 10 with neighbours."""
        if self.by_neighbours:
            return self.lr or 10.0  # on inputs of length 1
        return self.lr or {"full": 6e-4, "lora": 2e-3}.get(self.method, 1e-2)

    @property
    def head_learning_rate(self) -> float:
        """`head_lr`, or what it is by default."""
        fresh = self.method in ("full", "lora") and not self.head_first
        return self.head_lr or (self.learning_rate * (10 if fresh else 1))

    def of_head(self) -> "FinetuneConfig":
        """The recipe of the head alone, before the model is tuned."""
        return dataclasses.replace(self, method="frozen", head_first=False, lr=0, head_lr=0, epochs=0, patience=0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)
