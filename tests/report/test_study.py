from typing import Any

import pytest

from genome_lm.report.study import (
    Leader,
    Spread,
    chance_apart,
    leaders,
    recall_column,
    recall_lines,
    seconds,
    seed_lines,
    valid_within,
)
from genome_lm.report.suite import _shown
from genome_lm.training.metrics import Metrics


def step(number: int, bases: int, speed: float, valid: float | None = None) -> Metrics:
    values = dict.fromkeys(Metrics._fields, 0) | {"step": number, "bases": bases, "bases_per_second": speed}
    return Metrics(**values | {"valid_loss": valid, "valid_bits_per_base": valid})  # type: ignore[arg-type]


STEPS = [step(0, 100, 50.0), step(1, 200, 100.0, 1.9), step(2, 600, 100.0, 1.8), step(3, 1_000, 200.0)]


def test_time_is_that_of_the_steps() -> None:
    assert seconds(STEPS) == [2, 3, 7, 9]
    for limit, bits in ((2.9, None), (3, 1.9), (6.9, 1.9), (7, 1.8), (100, 1.8)):
        assert valid_within(STEPS, limit) == bits


def row(model: str, seed: int, bits: float, genome: str = "g", speed: float = 1_000, **more: Any) -> dict[str, Any]:
    return {
        "trained_on": "g", "model": model, "seed": seed, "genome": genome, "bits_per_base": bits,
        "baseline_bits_per_base": 1.95, "bases_per_second": speed, "valid_bits_in_equal_time": "", **more,
    }  # fmt: skip


def test_models_are_compared_with_the_first_of_their_data() -> None:
    table = [row("a", seed, 1.9 + seed / 100) for seed in range(3)]
    table += [
        row("b", seed, 1.91 - seed / 100, speed=2_000 + seed, valid_bits_in_equal_time=1.5) for seed in range(3)
    ]
    table += [row("c", seed, 1.8 + seed / 100) for seed in range(3)]
    table += [row("c", 0, 1.7, "h"), row("d", 0, 1.75, "h")]
    lines = seed_lines(table)
    assert [line[0] for line in lines] == ["g, a", "g, b", "g, c", "g, c, on h", "g, d, on h"]
    assert [line[1] for line in lines] == ["3", "3", "3", "1", "1"]
    assert lines[0][2:5] == ("1.9100 (1.9000 – 1.9200)", "-0.0400", "")
    assert [line[4] for line in lines[1:]] == ["-0.0100", "-0.1000, apart", "", "+0.0500, apart"]
    assert lines[1][5:] == ("1.5000", "2,001 (2,000 – 2,002)")


@pytest.mark.parametrize(
    ("one", "other", "apart"), [((1, 3), (3, 4), False), ((1, 2), (3, 4), True), ((3, 4), (1, 2), True)]
)
def test_ranges_that_touch_are_not_apart(one: tuple[int, int], other: tuple[int, int], apart: bool) -> None:
    assert Spread.of(one).is_apart(Spread.of(other)) is apart


def test_the_page_leads_with_the_least_mean_of_each_genome() -> None:
    best = {"best_baseline": "order-3 Markov"}
    table = [row("a", 0, 1.80, **best), row("a", 1, 1.98, **best)]  # the best seed, not the best mean
    table += [row("b", 0, 1.87, **best), row("b", 1, 1.88, **best), row("a", 0, 1.99, "h", **best)]
    first, second = leaders(table)
    assert first == Leader("g", 2, "g, b", 2, pytest.approx(1.875), "order-3 Markov", pytest.approx(-0.075))
    assert second == Leader("h", 1, "g, a", 1, 1.99, "order-3 Markov", pytest.approx(0.04))


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.23456, "1.2346"), (0.0, "0.0000"), (-1e-5, "-1.0e-05"), (5e-5, "0.0001"), (float("nan"), "")],
)
def test_small_values_of_a_suite_are_no_zeros(value: float, text: str) -> None:
    assert _shown(value) == text


def test_how_often_like_models_are_apart() -> None:
    """Three numbers each from one distribution: the lowest three of six are of one model in 2 of 20 cases."""
    assert chance_apart(3) == pytest.approx(0.1)


def test_recall_by_model_and_distance() -> None:
    columns = {recall_column(distance, "5% substituted"): distance for distance in (64, 128)}
    assert list(columns) == ["recall_64_5_substituted", "recall_128_5_substituted"]
    near, far = columns
    table = [row("a", seed, 1.9, **{near: seed / 10, far: ""}) for seed in range(3)] + [row("b", 0, 1.9)]
    lines = recall_lines(table, {"5% substituted": columns})
    assert lines == {"5% substituted": [("g, a", "0.100 (0.000 – 0.200)", "")]}
