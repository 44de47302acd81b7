import math

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.training import Stage, TrainingConfig, parse_stages

CONFIG = TrainingConfig(stages=(Stage(100, 4), Stage(400, 6), Stage(100, 2)), tokens_per_step=1_000, lr=1.0)


def test_plans_keep_the_tokens_of_a_step_and_draw_no_sample_twice() -> None:
    plans = [CONFIG.plan(step) for step in range(CONFIG.steps)]
    assert [plan.length for plan in plans] == [100] * 4 + [400] * 6 + [100] * 2
    assert [plan.batch for plan in plans] == [10] * 4 + [2] * 6 + [10] * 2
    for length in (100, 400):
        samples = [s for p in plans if p.length == length for s in range(p.first_sample, p.first_sample + p.batch)]
        assert samples == list(range(len(samples)))
    with pytest.raises(IndexError):
        CONFIG.plan(CONFIG.steps)


def test_learning_rate() -> None:
    config = TrainingConfig(stages=(Stage(1, 101),), lr=2.0, warmup_fraction=0.1, final_lr_fraction=0.25)
    rates = [config.learning_rate(step) for step in range(101)]
    assert rates[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi * 0.5)) / 2)
    assert rates[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stages": ()}, "no stages"),
        ({"stages": ((0, 5),)}, r"stages\[0\].length is 0"),
        ({"lr": 0.0}, "lr"),
        ({"soft_mask_weight": 1.5}, "soft_mask_weight"),
        ({"precision": "fp16"}, "precision"),
        ({"valid_every": 0}, "valid_every"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(GenomeLMError, match=named):
        TrainingConfig(**{"stages": ((10, 5),), **change})  # type: ignore[arg-type]


def test_stages_from_text() -> None:
    assert parse_stages("64:10,128:5") == (Stage(64, 10), Stage(128, 5))
    for text in ("64", "64:x", "64:1:2", ""):
        with pytest.raises(GenomeLMError, match="length:steps"):
            parse_stages(text)
