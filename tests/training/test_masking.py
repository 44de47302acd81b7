import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genome_lm.alphabet import MASK, NUCLEOTIDES, PAD, A, C, G, N, T
from genome_lm.checkpoint import load_checkpoint
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.genome import WindowSampler, read_bed, tile
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig, read_metrics, target_losses, train
from genome_lm.training.data import TrainingSteps
from genome_lm.training.objective import HiddenBases, draw_masks
from genome_lm.training.validation import mean_loss
from genome_lm.training_config import MaskingConfig
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed, rows, weights

MASKED = dataclasses.replace(TINY_MODEL, direction=BOTH)
RECIPE = changed(
    stages=(Stage(32, 6), Stage(128, 6)), valid_every=6, checkpoint_every=4, soft_mask_weight=0.5, ema=0.9
)


def steps_of(genome: Genome, recipe: TrainingConfig, rank: int = 0, world: int = 1) -> TrainingSteps:
    sampler = WindowSampler(genome.store, read_bed(genome.intervals), "train", recipe.seed)
    return TrainingSteps(Mixture([Source("genome", sampler)], [1.0]), recipe.with_masking(), rank, world)


def test_as_many_bases_are_hidden_as_asked_each_in_its_way() -> None:
    config = MaskingConfig(0.15, masked=0.7, random=0.2)
    hidden, instead = draw_masks(config, (3, 200_000, 5))
    assert abs(hidden.mean() - 0.15) < 0.003
    ways = instead[hidden]
    assert abs((ways == MASK).mean() - 0.7) < 0.01
    assert abs((ways == 0).mean() - 0.1) < 0.01
    assert all(abs((ways == base).mean() - 0.05) < 0.005 for base in NUCLEOTIDES)
    neighbours = (hidden[1:] & hidden[:-1]).mean()
    assert abs(neighbours - 0.15**2) < 0.002, "each base is hidden by itself"


def test_runs_of_hidden_bases_have_the_mean_length_and_one_way() -> None:
    hidden, instead = draw_masks(MaskingConfig(0.3, span=6), (3, 400_000, 0))
    starts = np.flatnonzero(hidden[1:] & ~hidden[:-1]) + 1
    assert abs(hidden.mean() - 0.3) < 0.01
    assert abs(hidden[1:].sum() / len(starts) - 6) < 0.15
    is_mask = instead == MASK
    same_run = hidden[1:] & hidden[:-1]
    assert (is_mask[1:] == is_mask[:-1])[same_run].all()
    assert abs(is_mask[starts].mean() - 0.8) < 0.01
    first = np.mean([draw_masks(MaskingConfig(0.3, span=6), (3, 16, sample))[0][0] for sample in range(2_000)])
    assert abs(first - 0.3) < 0.04, "windows begin as they go on"


def test_masks_depend_on_the_seed_the_length_and_the_sample_alone() -> None:
    config = MaskingConfig()
    one = draw_masks(config, (1, 64, 9))
    again = draw_masks(config, (1, 64, 9))
    assert all((left == right).all() for left, right in zip(one, again, strict=True))
    assert all((one[0] != draw_masks(config, key)[0]).any() for key in ((2, 64, 9), (1, 64, 8)))
    assert (one[0] != draw_masks(config, (1, 65, 9))[0][:64]).any()


def test_what_is_no_base_is_not_hidden_and_weights_are_those_of_the_hidden() -> None:
    tokens = np.array([[A, C, N, G, T, PAD] * 20], dtype=np.uint8)
    weighed = np.linspace(0.5, 1, tokens.size, dtype=np.float32)[None]
    ids, of_targets = HiddenBases(MaskingConfig(0.5), 0)(tokens, weighed, np.array([4]))
    hidden, instead = draw_masks(MaskingConfig(0.5), (0, 120, 4))
    counts = hidden & np.isin(tokens[0], NUCLEOTIDES)
    np.testing.assert_array_equal(of_targets[0], np.where(counts, weighed[0], 0))
    np.testing.assert_array_equal(ids[0], np.where(counts & (instead > 0), instead, tokens[0]))


def test_a_step_s_masks_depend_neither_on_devices_nor_on_micro_batches(genome: Genome) -> None:
    whole = steps_of(genome, RECIPE)[8]
    parts = [steps_of(genome, dataclasses.replace(RECIPE, device_tokens=128), rank, 2)[8] for rank in range(2)]
    for rank, part in enumerate(parts):
        assert (part.ids == whole.ids[rank::2]).all()
        assert (part.weights == whole.weights[rank::2]).all()
    assert len(parts[0].micro_batches) > len(whole.micro_batches)


def test_the_loss_is_the_mean_over_the_hidden_bases(genome: Genome) -> None:
    """Against a naive sum in float64, micro-batch by micro-batch and in one."""
    batch = steps_of(genome, RECIPE)[8]
    torch.manual_seed(0)
    model = HyenaLM(MASKED).double().eval()
    loss = model.loss(batch.ids.long(), batch.tokens.long(), batch.weights.double())
    log_p = model(batch.ids.long()).log_softmax(-1)
    total = count = 0.0
    for row, weighed in enumerate(batch.weights.tolist()):
        for place, weight in enumerate(weighed):
            if weight:
                total -= weight * float(log_p[row, place, int(batch.tokens[row, place])])
                count += weight
    assert 0.08 < count / batch.weights.numel() < 0.22
    assert float(loss) == pytest.approx(total / count, rel=1e-6)
    parts = [slice(0, 1), slice(1, None)]
    sums = [model.summed_loss(batch.ids[p].long(), batch.tokens[p].long(), batch.weights[p]) for p in parts]
    assert sum(float(part) for part, _ in sums) / sum(float(n) for _, n in sums) == pytest.approx(
        float(loss), rel=1e-6
    )


@pytest.fixture(scope="module")
def masked_run(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masked") / "run"
    train(one_source(genome.store.path, genome.intervals), out, MASKED, RECIPE)
    return out


def test_a_run_says_what_it_hides_and_has_no_perplexity(masked_run: Path) -> None:
    assert json.loads((masked_run / "run.json").read_text())["training"]["masking"] == dataclasses.asdict(
        MaskingConfig()
    )
    assert load_checkpoint(masked_run / "checkpoint")[0].config.direction is BOTH
    metrics = read_metrics(masked_run)
    assert len(metrics) == 12
    assert all(row.perplexity is None for row in metrics)
    assert metrics[-1].valid_loss is not None
    assert 0 < metrics[-1].valid_loss < 3


def test_resumed_equals_undisturbed_bit_for_bit(
    masked_run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainingSteps.__getitem__

    def stopped(steps: TrainingSteps, step: int) -> object:
        if step == 9:
            raise GenomeLMError("stopped")
        return whole(steps, step)

    monkeypatch.setattr(TrainingSteps, "__getitem__", stopped)
    data, out = one_source(genome.store.path, genome.intervals), tmp_path / "run"
    with pytest.raises(GenomeLMError, match="stopped"):
        train(data, out, MASKED, RECIPE)
    monkeypatch.setattr(TrainingSteps, "__getitem__", whole)
    train(data, out, MASKED, RECIPE)
    assert rows(out) == rows(masked_run)
    assert weights(out) == weights(masked_run)


def test_validations_hide_the_same_bases_and_all_sets_cover_each_base_once(genome: Genome) -> None:
    torch.manual_seed(0)
    model = HyenaLM(MASKED).eval()
    intervals = [region for region in read_bed(genome.intervals) if region.name == "valid"][:2]
    windows, inside = tile(genome.store, intervals, 100, 100)
    of_all = [counted for *_, counted in target_losses(model, genome.store, windows, inside, 1_000)]
    of_sets = [
        sum(int(counted.sum()) for *_, counted in target_losses(model, genome.store, windows, inside, 1_000, [each]))
        for each in range(7)
    ]
    assert sum(int(counted.sum()) for counted in of_all) == sum(of_sets)
    assert min(of_sets) > 0
    one = mean_loss(model, genome.store, windows, inside, 1_000)
    assert mean_loss(model, genome.store, windows, inside, 300) == pytest.approx(one, rel=1e-6)


def test_masks_are_refused_where_they_do_not_belong(genome: Genome, tmp_path: Path) -> None:
    data = one_source(genome.store.path, genome.intervals)
    with pytest.raises(GenomeLMError, match="masking goes with models of direction both"):
        train(data, tmp_path / "run", TINY_MODEL, changed(masking=MaskingConfig()))
    assert not (tmp_path / "run").exists()
    for values, words in (
        ({"fraction": 0.0}, "between 0 and 1"),
        ({"random": 0.3}, "more than all"),
        ({"span": 1.0}, "at least 1.18"),
    ):
        with pytest.raises(GenomeLMError, match=words):
            MaskingConfig(**values)
