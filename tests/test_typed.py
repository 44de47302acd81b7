import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pytest

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.model import HeadConfig
from genome_lm.training_config import Stage, TrainingConfig
from genome_lm.typed import Within, typed


class Pair(NamedTuple):
    first: int
    second: float = 0.5


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Within(1, 5)]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"]
    pairs: tuple[Pair, ...] = ()
    more: dict[str, float | None] | None = None
    anything: Any = None


def test_plain_values_become_typed_ones() -> None:
    values = {"inner": {"name": "x"}, "kind": "b", "pairs": [[1, 2], {"first": np.int64(3)}], "more": {"n": None}}
    assert typed(Outer, values, "it") == Outer(Inner("x"), "b", (Pair(1, 2.0), Pair(3, 0.5)), {"n": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, "it: kind is 'c', use a, b"),
        ({"kind": ["a"]}, r"it: kind is \['a'\], use a, b"),
        ({"inner": None}, "it: inner is None, must have the fields name"),
        ({"inner": {}}, "it: inner: missing field name"),
        ({"inner": {"name": ""}}, "its length must be at least 1"),
        ({"inner": {"name": "123456"}}, "at most 5"),
        ({"inner": {"name": 1}}, "inner.name is 1, must be text"),
        ({"pairs": "12"}, "pairs is '12', must be a list"),
        ({"pairs": [[1, 2, 3]]}, r"pairs\[0\] is \[1, 2, 3\], must have the fields first, second"),
        ({"pairs": [[True]]}, r"pairs\[0\]"),
        ({"pairs": [{"first": True}]}, r"pairs\[0\].first is True, must be a whole number"),
        ({"pairs": [{"first": 1.0}]}, "must be a whole number"),
        ({"pairs": [{"first": 1, "second": math.nan}]}, "second is nan, must be a finite number"),
        ({"pairs": [{"first": 1, "second": 10**5000}]}, "thousands of digits, must be a finite number"),
        ({"more": {"n": "x"}}, "more.n is 'x', must be a number"),
        ({"more": {1: 1.0}}, "more is 1, must be text"),
        ({"other": 1, 2: 3}, "unknown field 2, other; there are anything, inner, kind, more, pairs"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        typed(Outer, {"inner": {"name": "x"}, "kind": "a", **change}, "it")


WRONG = {
    "text": "x", "number as text": "1", "list": [], "object": {}, "null": None, "negative": -1, "half": 0.5,
    "NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf, "2^43": 2**43, "2^63": 2**63,
    "10^18": 10**18, "10^400": 10**400, "10^308": 1e308, "true": True,
}  # fmt: skip
COUNTS = {
    ModelConfig: "d_model n_layer max_length d_inner order short_filter_order emb_dim filter_order num_inner_mlps",
    TrainingConfig: "tokens_per_step device_tokens valid_every valid_windows checkpoint_every seed",
    FinetuneConfig: "epochs sequences_per_step device_tokens patience lora_rank prompt_length neighbours seed",
    HeadConfig: "prompt",
}
NUMBERS = {
    ModelConfig: "sine_frequency layer_norm_epsilon embed_dropout resid_dropout",
    TrainingConfig: "lr filter_lr final_lr_fraction warmup_fraction decay_fraction weight_decay beta1 clip ema "
    "soft_mask_weight max_n_fraction",
    FinetuneConfig: "lr head_lr final_lr_fraction warmup_fraction weight_decay beta1 beta2 clip lora_alpha",
}
RIGHT: dict[type, dict[str, Any]] = {
    ModelConfig: {"d_model": 16, "n_layer": 2, "max_length": 128},
    TrainingConfig: {"stages": [[32, 5]]},
    FinetuneConfig: {},
    HeadConfig: {"task": "classification", "outputs": ["a", "b"]},
}


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_numbers_of_configs_have_bounds(kind: type, value: str) -> None:
    wrong = WRONG[value]
    for name in COUNTS[kind].split():
        if not (name == "seed" and wrong == 2**31 + 1):
            with pytest.raises(GenomeLMError, match=rf"{name} is "):
                typed(kind, {**RIGHT[kind], name: wrong}, "config")
    for name in NUMBERS.get(kind, "").split():
        if wrong not in (0.5,):
            with pytest.raises(GenomeLMError, match=rf"{name} is "):
                typed(kind, {**RIGHT[kind], name: wrong}, "config")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 2**17, "n_layer": 1_000}, "parameters, must be at most 100,000,000,000"),
        ({"filter_order": 2**16, "num_inner_mlps": 64}, "parameters, must be at most"),
        ({"emb_dim": 4}, "must be odd"),
    ],
)
def test_shapes_that_nobody_means(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        ModelConfig.from_dict(RIGHT[ModelConfig] | change)


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": "ab"},
        {"outputs": ["a", "a"]},
        {"outputs": ["a", 1]},
        {"task": "x"},
        {"pool": None},
        {"strand": "reverse"},
        {"task": "regression"},
        {"task": "regression", "means": [0, 0], "scales": ["1", 1]},
        {"task": "regression", "means": [0, 0], "scales": [0, 1]},
        {"task": "regression", "means": [0], "scales": [1]},
        {"means": [0, 0], "scales": [1, 1]},
    ],
    ids=str,
)
def test_head_configs_that_don_t_fit(change: dict[str, Any]) -> None:
    with pytest.raises(GenomeLMError):
        HeadConfig.from_dict(RIGHT[HeadConfig] | change)


@pytest.mark.parametrize(
    "stages", [[], None, 5, [5], [[5]], [[5, 0]], [[0, 5]], [[5, "6"]], [[5, 2**40]], "5", math.nan]
)
def test_stages_that_don_t_fit(stages: Any) -> None:
    with pytest.raises(GenomeLMError, match="stages"):
        TrainingConfig.from_dict({"stages": stages})


def test_configs_come_back_from_json() -> None:
    for config in (
        *PRESETS.values(),
        TrainingConfig((Stage(8, 2), Stage(16, 3))),
        HeadConfig("regression", ("a",), means=(0.5,), scales=(2.0,)),
    ):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
