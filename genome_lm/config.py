"""What a model is: its shape, and shapes by name."""

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from genome_lm.direction import CAUSAL, Direction
from genome_lm.errors import GenomeLMError
from genome_lm.text import repeated_names
from genome_lm.typed import Positive, Within, check_fields, typed

MOST_PARAMETERS = 10**11
"""Of a model: a shape of more is a mistake, which would take the machine's memory before it is seen."""

CONDITION_IDS = range(12, 16)
"""Ids of the tokens that name a condition: the rows of the embedding behind those of the vocabulary."""
Condition = Annotated[str, Within(1, 100)]
"""What a sequence is read under, such as the name of its species; a word, since headers of files name it."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a HyenaDNA model (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794).

    Attributes:
        d_model: Width of the residual stream.
        n_layer: Number of blocks.
        max_length: Context in bases. The filters span `filter_length` positions, two more than this, the room that
            the original left for [CLS] and [SEP]; the model takes as many tokens.
        d_inner: Width inside the MLP; 0 stands for 4 · d_model.
        order: Order of the Hyena recurrence; order − 1 long convolutions per block.
        short_filter_order: Taps of the depthwise convolution after the in-projection.
        emb_dim: Positional features of the implicit filter: t and (emb_dim − 1)/2 pairs of cos and sin; odd.
        filter_order: Width of the implicit filter's MLP.
        num_inner_mlps: Hidden layers of that MLP after its first.
        sine_frequency: Initial frequency of its sine activations.
        layer_norm_epsilon: Added to the variance in every LayerNorm.
        embed_dropout: Dropout after the embedding, in training.
        resid_dropout: Dropout before each residual addition, in training.
        layout: Operators of the blocks, separated by commas; the list is repeated over the `n_layer` blocks. This
            field and those after it are HyenaDNA's by default, and then not in files.
        direction: "causal", or "both": each block mixes the sequence and its reverse, and the logits are those of a
            masked model, of the base at their own position.
        strands: "single"; "pooled", trained on either strand, so that commands average both unless they are told
            otherwise; or "equivariant", of models that read both ways: both strands go through the same weights. The
            hidden states of a position are those of its strand, then those of the other, so twice `d_model`.
            The reverse complement of a sequence then has the same states in reverse, with the halves exchanged
            (Schiff et al. 2024, https://arxiv.org/abs/2403.03234).
        reversed_weights: "shared" or "own" mixers for the reversed direction of models that read both ways.
        combine: What a block adds of its two directions: "sum", their sum, without weights; "gate", for each position
            and channel a mean of the two, with weights that a linear layer makes of both, so that the side that tells
            more can count more; "projection", their sum and what a linear layer makes of both, so that channels of
            one side meet those of the other.
        heads: Heads of attention; 0 stands for one per 64 channels, and at least one.
        attention_window: Last positions that a position attends to in `attention-local` and `attention-recall`,
            itself among them.
        attention_segments: Lengths and dilations of the segments of `attention-dilated`.
        recall_taps: Bases before two positions that `attention-recall` compares.
        recall_keys: Earlier positions than the window that a position attends to in `attention-recall`; 0 for all.
        recall_others: Other sequences of a training batch to which `attention-recall` attends too.
        se_taps: Taps of the explicit filters of the operator hyena-se.
        mr_taps: Taps of the explicit filters of the operator hyena-mr.
        filter_groups: Groups of neighbouring channels that share an explicit filter, in both of these; 0 for a filter
            per channel.
        conditions: Names that a sequence can be read under, such as species; each has a token that stands before the
            sequence (`CONDITION_IDS`, in this order). Of causal models alone: training puts the token in place of a
            window's first base, which nothing predicts, and in masked training each base may be predicted.
        ngram_order: Bases of the longest n-grams whose vectors are added to the embedding, 2 to 8; 0 for none. There
            is a vector for each n-gram from two bases on: 87,376 of them at 8, 5,456 at 6.
        ngram_width: Width of these vectors, which a projection brings to `d_model`; 0 stands for `d_model`.
    """

    d_model: Annotated[int, Within(1, 2**17)]
    n_layer: Annotated[int, Within(1, 1_000)]
    max_length: Annotated[int, Within(1, 2**31)]
    d_inner: Annotated[int, Within(0, 2**20)] = 0
    order: Annotated[int, Within(2, 64)] = 2
    short_filter_order: Annotated[int, Within(1, 1_024)] = 3
    emb_dim: Annotated[int, Within(3, 2**16)] = 5
    filter_order: Annotated[int, Within(1, 2**16)] = 64
    num_inner_mlps: Annotated[int, Within(0, 64)] = 2
    sine_frequency: Annotated[float, Within(1e-6, 1e6)] = 10.0
    layer_norm_epsilon: Annotated[float, Within(0, 1)] = 1e-5
    embed_dropout: Annotated[float, Within(0, 0.999)] = 0.1
    resid_dropout: Annotated[float, Within(0, 0.999)] = 0.0
    layout: str = "hyena"
    direction: Direction = CAUSAL
    strands: Literal["single", "pooled", "equivariant"] = "single"
    reversed_weights: Literal["shared", "own"] = "shared"
    combine: Literal["sum", "gate", "projection"] = "sum"
    heads: Annotated[int, Within(0, 2**12)] = 0
    attention_window: Annotated[int, Within(1, 2**31)] = 256
    attention_segments: tuple[tuple[Positive, Positive], ...] = ((256, 1), (1_024, 4), (4_096, 16))
    recall_taps: Annotated[int, Within(1, 1_024)] = 16
    recall_keys: Annotated[int, Within(0, 2**31)] = 768
    recall_others: Annotated[int, Within(0, 2**16)] = 0
    se_taps: Annotated[int, Within(1, 32)] = 7
    mr_taps: Annotated[int, Within(1, 256)] = 128
    filter_groups: Annotated[int, Within(0, 2**17)] = 0
    conditions: Annotated[tuple[Condition, ...], Within(0, len(CONDITION_IDS))] = ()
    ngram_order: Annotated[int, Within(0, 8)] = 0
    ngram_width: Annotated[int, Within(0, 2**17)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "model config")
        if self.d_inner == 0:
            object.__setattr__(self, "d_inner", 4 * self.d_model)
        if self.emb_dim % 2 == 0:
            raise GenomeLMError(
                f"model config: emb_dim is {self.emb_dim}, must be odd (t, then pairs of cos and sin)"
            )
        if len(names := self.layout.split(",")) > self.n_layer:
            raise GenomeLMError(
                f"model config: layout names {len(names)} operators for {self.n_layer} blocks; raise n_layer"
            )
        if self.direction is CAUSAL:
            usual = {"strands": ("single", "pooled"), "reversed_weights": ("shared",), "combine": ("sum",)}
            for name, values in usual.items():
                if (value := getattr(self, name)) not in values:
                    raise GenomeLMError(f"model config: {name} {value} goes with direction both")
        elif self.conditions:
            raise GenomeLMError(
                f"model config: conditions ({', '.join(self.conditions)}) go with direction causal: masked training "
                "has no place for their token; leave them out of the shape and of the sources of the training data"
            )
        for name in self.conditions:
            check_condition(name)
        if repeated := repeated_names(self.conditions):
            raise GenomeLMError(f"model config: two conditions are named {repeated[0]!r}")
        if self.filter_groups and self.d_model % self.filter_groups:
            raise GenomeLMError(
                f"model config: filter_groups is {self.filter_groups}, must divide d_model, {self.d_model}"
            )
        if self.ngram_order == 1:
            raise GenomeLMError("model config: ngram_order is 1, must be 2 to 8, or 0 for no n-grams")
        if self.ngram_width and not self.ngram_order:
            raise GenomeLMError("model config: ngram_width without ngram_order: give that too, 2 to 8")
        if (least := self.least_parameters) > MOST_PARAMETERS:
            raise GenomeLMError(
                f"model config: at least {least:,} parameters, must be at most {MOST_PARAMETERS:,}: make d_model, "
                "d_inner, n_layer, the filter or the n-grams smaller"
            )

    @property
    def least_parameters(self) -> int:
        """Weights of the large matrices, without building the model."""
        mlp, projections = 2 * self.d_model * self.d_inner, (self.order + 2) * self.d_model**2
        filters = self.filter_order * (self.num_inner_mlps * self.filter_order + self.emb_dim)
        return self.n_layer * (mlp + projections + filters) + self.ngrams * (self.ngram_width or self.d_model)

    @property
    def state_width(self) -> int:
        """Width of a hidden state: that of the residual stream, or of those of both strands."""
        return self.d_model * (2 if self.strands == "equivariant" else 1)

    @property
    def default_strand(self) -> Literal["forward", "both"]:
        """Which strands are embedded and tuned on where nobody says."""
        return "both" if self.strands == "pooled" else "forward"

    @property
    def ngrams(self) -> int:
        """How many n-grams have a vector."""
        return sum(4**length for length in range(2, self.ngram_order + 1))

    @property
    def ngram_reach(self) -> int:
        """Tokens before a position that its n-grams hold."""
        return max(0, self.ngram_order - 1)

    @property
    def filter_length(self) -> int:
        """Positions that the long filters span; the most tokens that the model takes."""
        return self.max_length + 2

    @property
    def mixers(self) -> tuple[str, ...]:
        """The operator of each block."""
        names = [name.strip() for name in self.layout.split(",")]
        return tuple(names[number % len(names)] for number in range(self.n_layer))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values, without those from `layout` on that have their defaults."""
        values = dataclasses.asdict(self)
        fields = dataclasses.fields(self)
        first = next(number for number, field in enumerate(fields) if field.name == "layout")
        for field in fields[first:]:
            if values[field.name] == field.default:
                del values[field.name]
        if self.conditions:
            values["conditions"] = list(self.conditions)
        if "direction" in values:
            values["direction"] = self.direction.value
        return values

    def condition_id(self, name: str) -> int:
        """The id of a condition's token.

        Raises:
            GenomeLMError: If the model has no condition of this name; it lists those that there are.
        """
        if name not in self.conditions:
            there = f"it has {', '.join(self.conditions)}" if self.conditions else "it was trained without any"
            raise GenomeLMError(f"this model has no condition {name!r:.100}; {there}")
        return CONDITION_IDS[self.conditions.index(name)]

    def with_conditions(self, names: Iterable[str]) -> "ModelConfig":
        """The same shape with these conditions too; those that are there keep their ids.

        Raises:
            GenomeLMError: If they are more than there are ids.
        """
        return dataclasses.replace(self, conditions=tuple(dict.fromkeys([*self.conditions, *names])))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`.

        Raises:
            GenomeLMError: On an unknown or a missing field, or a value out of range.
        """
        return typed(cls, values, "model config")


def check_condition(name: str) -> None:
    """Raise a `GenomeLMError` unless a text can name a condition."""
    if not re.fullmatch(r"[\w.+-]+", name):
        raise GenomeLMError(f"condition {name!r:.100}: use a word of letters, digits and _ . + -")


PRESETS = {
    name: ModelConfig(**shape)
    for name, shape in json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8")).items()
}
"""HyenaDNA's seven published sizes, and hybrids of operators whose names tell their parameters.

The workflow, which may run where this package is not installed, reads the same file.
"""
