import math
from typing import Any

import numpy as np
import pytest
import torch

from genome_lm.alphabet import A, T, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import ANALYSES, recall
from genome_lm.evaluation.analyses.recall import COPIES, DISTANCES
from genome_lm.evaluation.losses import base_losses, mean_and_interval, sample_windows
from genome_lm.genome import Interval
from tests.conftest import Genome
from tests.evaluation.test_suite import Copycat, texts_of

CONFIG = ModelConfig(d_model=16, n_layer=2, max_length=512, filter_order=8)
"""Its segments are of 128 bases, 64, 128 and 256 from their copies."""
REGIONS = [Interval("one", 0, 40_000, "test")]


class LooksBack(Copycat):
    """Predicts that the base so many positions ago comes again; it keeps what it was given."""

    def __init__(self, config: ModelConfig, back: int = 0) -> None:
        super().__init__(config)
        self.back, self.given = back, []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.given.append(ids)
        logits = torch.zeros(*ids.shape, 16)
        if self.back:
            logits[:, self.back - 1 :].scatter_(2, ids[:, : ids.shape[1] - self.back + 1, None].long(), 5.0)
        return logits


def gains(model: Copycat, genome: Genome, **options: Any) -> dict[tuple[int, str], dict[str, Any]]:
    rows = recall(model, genome.store, REGIONS, **{"segments": 40, **options})  # type: ignore[arg-type]
    return {(row["distance"], row["copy"]): row for row in rows}


def test_the_gain_of_a_model_that_looks_back_is_what_it_must_be(genome: Genome) -> None:
    hit, miss = (
        base_losses(LooksBack(CONFIG, 1), np.array([[A, base]], dtype=np.uint8))[0, 1].item() for base in (A, T)
    )
    rows = gains(LooksBack(CONFIG, 128 + 128), genome)
    exact = rows[128, "exact"]
    assert exact["loss"] == pytest.approx(hit, abs=1e-5)
    # By chance a base is the same in one of four cases; the genome has as many of each.
    assert exact["control"] == pytest.approx(hit / 4 + miss * 3 / 4, rel=0.05)
    assert exact["gain"] == pytest.approx(exact["control"] - exact["loss"], abs=1e-5)
    assert exact["low"] < exact["gain"] < exact["high"] < exact["low"] + 0.2
    substituted = rows[128, "5% substituted"]
    assert substituted["loss"] == pytest.approx(0.95 * hit + 0.05 * miss, rel=0.2)
    assert hit + 0.02 * (miss - hit) < substituted["loss"]
    for key, row in rows.items():
        if key[0] != 128 or key[1] == "reverse complement":
            assert row["low"] - 0.05 < 0 < row["high"] + 0.05, key


def test_a_model_that_copies_gains_at_every_distance_and_a_blind_one_nothing(genome: Genome) -> None:
    rows = gains(Copycat(CONFIG), genome, segments=8)
    assert {distance for distance, _ in rows} == {64, 128, 256}
    for distance in (64, 128, 256):
        assert rows[distance, "exact"]["low"] > rows[distance, "5% substituted"]["high"]
        assert rows[distance, "5% substituted"]["low"] > 0.5
        assert abs(rows[distance, "reverse complement"]["gain"]) < 0.4
    assert {row["gain"] for row in gains(LooksBack(CONFIG), genome).values()} == {0.0}


def test_copy_and_control_differ_in_the_first_place_alone(genome: Genome) -> None:
    model = LooksBack(CONFIG)
    gains(model, genome, segments=5)
    scored = model.given[0][:, -127:]
    for number, distance in enumerate((64, 128, 256)):
        control, exact, substituted, turned = (each.numpy() for each in model.given[4 * number : 4 * number + 4])
        assert control.shape == (5, 2 * 128 + distance - 1)
        for tokens in (control, exact, substituted, turned):
            assert (tokens[:, 128:] == control[:, 128:]).all()
            assert (tokens[:, -127:] == scored.numpy()).all()  # the same segments at all distances
        assert (exact[:, :127] == exact[:, -127:]).all()
        assert (control[:, :128] == np.roll(exact[:, :128], 1, axis=0)).all()
        assert (turned[:, :128] == reverse_complement(exact[:, :128])).all()
        assert 0.01 < (substituted[:, :128] != exact[:, :128]).mean() < 0.1
        assert ((substituted >= A) & (substituted <= T)).all()


def test_it_is_drawn_by_the_seed(genome: Genome) -> None:
    one, same, other = (gains(LooksBack(CONFIG, 192), genome, segments=5, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("context", "segment", "farthest"),
    [(63, 0, 0), (128, 32, 64), (1_024, 256, 512), (1_535, 256, 512), (1_536, 256, 1_024), (40_000, 256, 16_384)],
)
def test_distances_go_as_far_as_the_context(genome: Genome, context: int, segment: int, farthest: int) -> None:
    config = ModelConfig(d_model=16, n_layer=2, max_length=context)
    rows = recall(LooksBack(config), genome.store, REGIONS, segments=2)  # type: ignore[arg-type]
    assert {row["segment"] for row in rows} == ({segment} if segment else set())
    assert sorted({row["distance"] for row in rows}) == [d for d in DISTANCES if d <= farthest]
    assert len(rows) == len(COPIES) * len({row["distance"] for row in rows})


def test_a_region_without_room(genome: Genome) -> None:
    with pytest.raises(GenomeLMError, match="fewer than two windows of 512 bases without N"):
        recall(LooksBack(CONFIG), genome.store, [Interval("one", 0, 600, "test")])  # type: ignore[arg-type]


def test_segments_share_no_base_though_windows_do(genome: Genome) -> None:
    tokens = sample_windows(genome.store, REGIONS, 16_896, 10**6, np.random.default_rng(0), stride=256)
    text = genome.store["one", 0:40_000].tobytes().decode()
    places = sorted(text.index("".join("ACGT"[token - A] for token in row[-256:])) for row in tokens)
    assert len(tokens) == (40_000 - 16_896) // 256 + 1
    assert np.diff(places).min() == 256


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, low, high = mean_and_interval(values, 0)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)
    assert low < mean < high


def test_the_figure_has_a_line_for_each_kind_of_copy() -> None:
    rows = [
        {"distance": distance, "copy": copy, "gain": 0.1, "low": 0.0, "high": 0.3}
        for distance in (64, 1_024)
        for copy in COPIES
    ]
    texts = texts_of(ANALYSES["recall"].draw(rows))
    assert set(COPIES) | {"64", "1,024", "gain, nats per base"} <= set(texts)
