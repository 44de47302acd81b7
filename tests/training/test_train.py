import copy
import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genome_lm.alphabet import PAD, N
from genome_lm.checkpoint import load_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.genome import WindowSampler, read_bed
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.kernels import dispatch
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.filter import ImplicitFilter
from genome_lm.training import Machine, Stage, TrainingConfig, lines, train
from genome_lm.training.data import StepBatch, TrainingSteps
from genome_lm.training.system import TrainingSystem
from tests.conftest import Genome
from tests.tiny import TINY_MODEL, TINY_RECIPE

TIMING = {"bases_per_second", "memory_mb"}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def weights(run: Path) -> bytes:
    return (run / "checkpoint" / "model.safetensors").read_bytes()


def changed(**values: object) -> TrainingConfig:
    return dataclasses.replace(TINY_RECIPE, **values)  # type: ignore[arg-type]


def test_a_run_learns_and_writes_what_it_says(run: Path, genome: Genome) -> None:
    metrics = rows(run)
    assert [int(row["step"]) for row in metrics] == list(range(60))
    assert float(metrics[-1]["valid_bits_per_base"]) < 1.9 < float(metrics[0]["bits_per_base"])
    for row in metrics:
        loss = float(row["loss"])
        assert float(row["perplexity"]) == pytest.approx(math.exp(loss))
        assert float(row["bits_per_base"]) == pytest.approx(loss / math.log(2))
    assert [row["step"] for row in metrics if row["valid_loss"]] == ["19", "39", "59"]
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(60))
    assert {"valid_loss", "grad_norm", "bases_per_second", "memory_mb", "lr"} <= set(board.Tags()["scalars"])
    _, provenance = load_checkpoint(run / "checkpoint")
    assert provenance["sources"][0]["genome"] == genome.store.provenance
    assert provenance["training"]["lr"] == TINY_RECIPE.lr


def test_workers_don_t_change_a_bit(run: Path, genome: Genome, tmp_path: Path) -> None:
    train(
        one_source(genome.store.path, genome.intervals),
        tmp_path / "run",
        TINY_MODEL,
        TINY_RECIPE,
        machine=Machine(num_workers=2),
    )
    assert rows(tmp_path / "run") == rows(run)
    assert weights(tmp_path / "run") == weights(run)


def test_a_finished_run_is_not_repeated_nor_mixed_with_another(run: Path, genome: Genome) -> None:
    before = (run / "metrics.csv").stat().st_mtime_ns
    result = train(one_source(genome.store.path, genome.intervals), run, TINY_MODEL, TINY_RECIPE)
    assert result.checkpoint == run / "checkpoint"
    with pytest.raises(GenomeLMError, match=r"training\.lr: 0.005 there, 0.1 now"):
        train(one_source(genome.store.path, genome.intervals), run, TINY_MODEL, changed(lr=0.1))
    assert (run / "metrics.csv").stat().st_mtime_ns == before


def test_restart_if_changed(genome: Genome, tmp_path: Path) -> None:
    short = changed(stages=((32, 2),), valid_every=1)
    for config in (short, dataclasses.replace(short, seed=1)):
        train(
            one_source(genome.store.path, genome.intervals),
            tmp_path / "a",
            TINY_MODEL,
            config,
            restart_if_changed=True,
        )
    train(
        one_source(genome.store.path, genome.intervals),
        tmp_path / "b",
        TINY_MODEL,
        dataclasses.replace(short, seed=1),
    )
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["training"]["seed"] == 1


def test_micro_batches_and_checkpointing_change_the_memory_alone(genome: Genome, tmp_path: Path) -> None:
    short = changed(stages=((64, 4),), valid_every=4)
    train(one_source(genome.store.path, genome.intervals), tmp_path / "a", TINY_MODEL, short)
    other = dataclasses.replace(short, device_tokens=100, activation_checkpointing=True)
    train(one_source(genome.store.path, genome.intervals), tmp_path / "b", TINY_MODEL, other)
    one, two = ([float(row["loss"]) for row in rows(tmp_path / name)] for name in "ab")
    # Dropout draws its mask micro-batch by micro-batch, but row by row it is the same stream of random numbers only
    # for whole batches; so the losses agree closely, not to the bit.
    assert one == pytest.approx(two, rel=0.02)
    names = [set(load_checkpoint(tmp_path / name / "checkpoint")[0].state_dict()) for name in "ab"]
    assert names[0] == names[1] == set(HyenaLM(TINY_MODEL).state_dict())


def test_bf16(genome: Genome, tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bf16-mixed"):
        config = changed(stages=((64, 8),), precision=precision)
        train(one_source(genome.store.path, genome.intervals), tmp_path / precision, TINY_MODEL, config)
        losses.append([float(row["loss"]) for row in rows(tmp_path / precision)])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("reason", ["", "this CPU has none"])
def test_bf16_says_how_and_resumes_bit_for_bit(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reason: str
) -> None:
    for module in (dispatch, lines):
        monkeypatch.setattr(module, "reason_against", lambda _: reason)
    config, data = changed(stages=((64, 6),), precision="bf16-mixed"), one_source(genome.store.path, genome.intervals)
    config = dataclasses.replace(config, checkpoint_every=2, valid_every=2)
    train(data, tmp_path / "whole", TINY_MODEL, config)
    assert ("by PyTorch's autocast" if reason else "are computed in bfloat16") in capfd.readouterr().err
    step = TrainingSystem.training_step

    def stopped(self: TrainingSystem, batch: StepBatch, index: int) -> None:
        if batch.step == 4:
            raise KeyError("stopped")
        step(self, batch, index)

    monkeypatch.setattr(TrainingSystem, "training_step", stopped)
    with pytest.raises(KeyError, match="stopped"):
        train(data, tmp_path / "parts", TINY_MODEL, config)
    monkeypatch.setattr(TrainingSystem, "training_step", step)
    train(data, tmp_path / "parts", TINY_MODEL, config)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_from_a_checkpoint(run: Path, genome: Genome, tmp_path: Path) -> None:
    config = changed(stages=((128, 2),), valid_every=1, lr=1e-6)
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", None, config, init=run / "checkpoint")
    assert float(rows(tmp_path / "run")[0]["valid_loss"]) == pytest.approx(
        float(rows(run)[-1]["valid_loss"]), abs=1e-3
    )


def test_a_loss_that_is_not_finite_names_step_and_windows(genome: Genome, tmp_path: Path) -> None:
    config = changed(stages=((64, 20),), lr=1e3, weight_decay=1e3, clip=1e12, warmup_fraction=0.0)
    with pytest.raises(GenomeLMError, match=r"step \d+: the loss is (nan|inf); windows (one|two):\d+-\d+\([+-]\)"):
        train(one_source(genome.store.path, genome.intervals), tmp_path / "run", TINY_MODEL, config)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_lengths_that_don_t_fit(genome: Genome, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match="windows of 500 bases"):
        train(one_source(genome.store.path, genome.intervals), tmp_path, TINY_MODEL, changed(stages=((500, 1),)))
    config = changed(tokens_per_step=64)
    with pytest.raises(GenomeLMError, match="1 windows per step, fewer than 2 devices"):
        train(
            one_source(genome.store.path, genome.intervals), tmp_path, TINY_MODEL, config, machine=Machine(devices=2)
        )


def test_soft_masked_bases_weigh_less(genome: Genome) -> None:
    sampler = WindowSampler(genome.store, read_bed(genome.intervals), "train", reverse_complement=False)
    steps = TrainingSteps(
        Mixture([Source("genome", sampler)], [1.0]), changed(stages=((100, 200),), soft_mask_weight=0.25)
    )
    seen = set()
    for step in range(60):
        windows, batch = steps.windows(step).windows, steps[step]
        for row, (contig, start) in enumerate(zip(windows.contigs, windows.starts, strict=True)):
            name = genome.store.contigs.names[contig]
            letters = genome.store.fetch(name, int(start), int(start) + 101, output="letters", pad=True)
            expected = np.where((letters[1:] >= ord("a")), 0.25, 1.0)
            seen |= set(expected.tolist())
            np.testing.assert_array_equal(batch.weights[row].numpy(), expected)
    assert seen == {0.25, 1.0}


def test_ranks_share_a_step(genome: Genome) -> None:
    sampler = WindowSampler(genome.store, read_bed(genome.intervals), "train")
    mixture = Mixture([Source("genome", sampler)], [1.0])
    whole = TrainingSteps(mixture, TINY_RECIPE)[3].tokens
    for world in (2, 3):
        parts = [TrainingSteps(mixture, TINY_RECIPE, rank, world)[3].tokens for rank in range(world)]
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part, whole[rank::world])


def test_a_batch_without_a_target_gives_no_nan() -> None:
    model = HyenaLM(TINY_MODEL)
    ids = torch.full((2, 20), N)
    ids[1] = PAD
    loss = model.loss(ids, ids)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_gradients_of_the_filters_are_not_rounded_in_a_bf16_run(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass is outside autocast: from the gradient of a filter, its parameters' follow in float32."""
    reached: dict[ImplicitFilter, torch.Tensor] = {}
    errors: list[float] = []
    forward, accumulate = ImplicitFilter.forward, TrainingSystem._accumulate

    def watched(self: ImplicitFilter, length: int) -> torch.Tensor:
        h = forward(self, length)
        h.register_hook(lambda gradient: reached.update({self: gradient.double()}))
        return h

    def compared(self: TrainingSystem, batch: StepBatch) -> float:
        loss = accumulate(self, batch)
        assert torch.is_autocast_enabled("cpu")
        for long_filter, gradient in reached.items():
            exact = copy.deepcopy(long_filter).double()
            expected = torch.autograd.grad(
                forward(exact, gradient.shape[1]), list(exact.parameters()), gradient, allow_unused=True
            )
            for parameter, want in zip(long_filter.parameters(), expected, strict=True):
                errors.append(float((parameter.grad.double() - want).norm() / want.norm()))
        return loss

    monkeypatch.setattr(dispatch, "reason_against", lambda _: "the plain form calls the filter's forward")
    monkeypatch.setattr(TrainingSystem, "_accumulate", compared)
    monkeypatch.setattr(ImplicitFilter, "forward", watched)
    config = changed(precision="bf16-mixed", stages=(Stage(128, 1),), valid_windows=1)
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", TINY_MODEL, config)
    assert len(reached) == TINY_MODEL.n_layer
    assert max(errors) < 1e-5
