"""How a model is tuned."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from genome_lm.errors import GenomeLMError
from genome_lm.training_config import Beta, Clip, Decay
from genome_lm.typed import Fraction, Positive, Seed, Within, check_fields

Method = Literal["full", "frozen", "lora", "prompt"]
METHODS: tuple[str, ...] = get_args(Method)
Count = Annotated[int, Within(0, 2**31)]
Rate = Annotated[float, Within(0, 1e6)]
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
        lr: Peak learning rate of the model; 0 for 6e-4 in full tuning, 2e-3 for LoRA, 1e-2 for the others, and 10 for
            a frozen model with neighbours.
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
        positive: Of two classes, the one that F1, AUROC and AUPRC are of; "" for the last in order.
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
        condition: Which of the model's conditions all sequences are read under; None for none. The tuned model keeps
            it.
        opposites: Which labels take each other's place on the other strand: "names" for those whose names differ in
            the + or - at their end alone, "none" for no labels; None where no label ends so.
        pair: What the head sees of pairs of sequences, see `genome_lm.model.HeadConfig`.
        track_loss: What tracks are trained by, see `genome_lm.model.head.Bins`.
        track_stride: Bases over which states are pooled, from which a transposed convolution goes back to bins, see
            there; 0 for the mean of each bin's states alone.
    """

    method: Method = "full"
    epochs: Count = 0
    sequences_per_step: Positive = 32
    device_tokens: Positive = 32_768
    lr: Rate = 0.0
    head_lr: Rate = 0.0
    final_lr_fraction: Fraction = 0.1
    warmup_fraction: Fraction = 0.1
    weight_decay: Decay = 0.1
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    clip: Clip = 1.0
    class_weights: bool = False
    reverse_complement: bool = False
    metric: str = ""
    positive: str = ""
    patience: Count = 0
    lora_rank: Annotated[int, Within(1, 4_096)] = 8
    lora_alpha: Annotated[float, Within(0, 1e6)] = 16.0
    prompt_length: Annotated[int, Within(1, 2**20)] = 16
    head_first: bool = False
    neighbours: Count = 0
    neighbour_distance: Count = 50_000
    seed: Seed = 0
    condition: str | None = None
    opposites: Literal["names", "none"] | None = None
    pair: Literal["difference", "concatenation"] = "difference"
    track_loss: Literal["poisson", "multinomial", "mse"] = "poisson"
    track_stride: Count = 0

    def __post_init__(self) -> None:
        check_fields(self, "finetune config")
        for name in ("epochs", "patience"):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, _PASSES[name][self.method == "frozen"])
        self._set_rates()
        if self.head_first and self.method not in ("full", "lora"):
            raise GenomeLMError(f"head_first goes with full and lora; {self.method} fits nothing but the head")
        if self.neighbours and self.method != "frozen" and not self.head_first:
            raise GenomeLMError(f"neighbours {self.neighbours}: they go with the method frozen or with head_first")

    @property
    def by_neighbours(self) -> bool:
        """Whether this fits a head in neighbours' coordinates, by plain gradient descent."""
        return self.method == "frozen" and self.neighbours > 0

    def _set_rates(self) -> None:
        """Put the method's own rates where there are none, so that records say what was used."""
        if self.lr == 0:
            usual = {"full": 6e-4, "lora": 2e-3}.get(self.method, 1e-2)
            object.__setattr__(self, "lr", 10.0 if self.by_neighbours else usual)  # neighbours' inputs have length 1
        if self.head_lr == 0:
            is_fresh = self.method in ("full", "lora") and not self.head_first
            object.__setattr__(self, "head_lr", self.lr * (10 if is_fresh else 1))

    def of_head(self) -> "FinetuneConfig":
        """The recipe of the head alone, before the model is tuned."""
        return dataclasses.replace(self, method="frozen", head_first=False, lr=0, head_lr=0, epochs=0, patience=0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)
