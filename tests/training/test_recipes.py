"""Muon, warm-up–stable–decay, the running limit of the norm and averaged weights: alone, and resumed together."""

import math
import statistics
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genome_lm.checkpoint import load_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig, read_metrics, train, warmup_stable_decay
from genome_lm.training import run as run_module
from genome_lm.training.averaging import WeightAverage, averaged_weights
from genome_lm.training.optimizers import (
    BatchedMuon,
    check_optimizer,
    clip_gradients,
    make_optimizers,
    set_learning_rates,
)
from genome_lm.training.spikes import FEWEST, WINDOW, NormLimit
from genome_lm.training.state import read_sealed
from genome_lm.training.system import TrainingSystem
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed, rows, weights

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has no Muon before 2.9")
ALL = changed(
    stages=(Stage(32, 30),), optimizer="muon", schedule="wsd", decay_fraction=0.5, clip_factor=0.5, ema=0.9,
    valid_every=10, checkpoint_every=25, valid_windows=4,
)  # fmt: skip


def tiny(seed: int = 0) -> HyenaLM:
    torch.manual_seed(seed)
    return HyenaLM(TINY_MODEL)


def with_gradients(model: HyenaLM, step: int) -> HyenaLM:
    torch.manual_seed(1_000 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def whole(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on."""
    out = tmp_path_factory.mktemp("recipes") / "run"
    train(one_source(genome.store.path, genome.intervals), out, TINY_MODEL, ALL)
    return out


@needs_muon
def test_resumed_with_everything_on_equals_undisturbed(
    whole: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data = tmp_path / "run", one_source(genome.store.path, genome.intervals)
    step = TrainingSystem.training_step

    def killed(self: TrainingSystem, batch: object, index: int) -> None:
        step(self, batch, index)  # type: ignore[arg-type]
        if batch.step == 27:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSystem, "training_step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(data, out, TINY_MODEL, ALL)
    assert read_sealed(out / "resume.ckpt", "training")["next_step"] == 25
    assert not (out / "summary.json").exists()
    train(data, out, TINY_MODEL, ALL)
    assert rows(out) == rows(whole)
    assert weights(out) == weights(whole)


@needs_muon
def test_the_log_has_the_limit_of_each_norm(whole: Path) -> None:
    metrics = read_metrics(whole)
    norms = [row.grad_norm for row in metrics if row.grad_norm is not None]
    assert [row.norm_limit for row in metrics[:FEWEST]] == [ALL.clip] * FEWEST
    later = [min(ALL.clip, 0.5 * statistics.median(norms[:step])) for step in range(FEWEST, len(norms))]
    assert [row.norm_limit for row in metrics[FEWEST:]] == later
    assert max(later) < ALL.clip


@needs_muon
def test_the_checkpoint_holds_the_average_that_was_measured(whole: Path, genome: Genome, tmp_path: Path) -> None:
    saved = read_sealed(whole / "resume.ckpt", "training")
    written = load_checkpoint(whole / "checkpoint")[0].state_dict()
    for name, average in averaged_weights(saved["average"]).items():
        assert torch.equal(written[name], average)
    assert not torch.equal(
        written["backbone.embedding.weight"], saved["state_dict"]["model.backbone.embedding.weight"]
    )
    # A run from the checkpoint that hardly moves measures what the run's last validation did.
    still = changed(stages=(Stage(32, 1),), lr=1e-12, valid_every=1, valid_windows=4)
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", None, still, init=whole / "checkpoint")
    measured = [read_metrics(folder)[-1].valid_loss for folder in (tmp_path / "run", whole)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)


def test_an_average_is_the_plain_formula() -> None:
    model = tiny()
    average = WeightAverage(model, 0.5)
    expected: dict[str, Tensor] = {}
    for step in range(20):
        for parameter in with_gradients(model, step).parameters():
            parameter.data += parameter.grad  # type: ignore[operator]
        average.update(model)
        keep = min(0.5, step / (10 + step))
        for name, parameter in model.named_parameters():
            now = parameter.detach().double()
            expected[name] = keep * expected.get(name, now) + (1 - keep) * now
    for name, parameter in average.model.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-5)
    assert not average.model.training


@needs_muon
def test_muon_steps_are_those_of_torch() -> None:
    config = changed(optimizer="muon", lr=0.02, filter_lr=0.003)
    model, plain = tiny(), tiny()
    optimizers = make_optimizers(model, config)
    matrices = [
        layer.weight
        for block in plain.backbone.blocks
        for layer in (block.mixer.in_proj, block.mixer.out_proj, block.mlp.fc1, block.mlp.fc2)
    ]
    decayed, spared = plain.parameter_groups(config.weight_decay)
    by_muon = {id(matrix) for matrix in matrices}
    filters = {id(p) for block in plain.backbone.blocks for p in block.mixer.filter.parameters()}
    muon = torch.optim.Muon(matrices, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
    betas = config.beta1, config.beta2
    rest = torch.optim.AdamW([p for p in decayed["params"] if id(p) not in by_muon], weight_decay=0.1, betas=betas)
    undecayed = torch.optim.AdamW([p for p in spared["params"] if id(p) not in filters], weight_decay=0, betas=betas)
    of_filters = torch.optim.AdamW([p for p in spared["params"] if id(p) in filters], weight_decay=0, betas=betas)
    for step in (0, 20, 59):
        with_gradients(model, step), with_gradients(plain, step)
        for optimizer in optimizers:
            set_learning_rates(optimizer, config, step)
            optimizer.step()
        rate = config.learning_rate(step)
        for optimizer, lr in ((muon, rate), (rest, rate), (undecayed, rate), (of_filters, 0.15 * rate)):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8, msg=name)


@needs_muon
def test_matrices_of_one_shape_step_together() -> None:
    """As one by one, to the rounding of bfloat16. Some steps go on from the state of the plain optimiser."""
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 8), (8, 24), (24, 8), (40, 8)]
    plain = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    batched = [nn.Parameter(each.detach().clone()) for each in plain]
    one = torch.optim.Muon(plain, lr=0.02, adjust_lr_fn="match_rms_adamw")
    other = BatchedMuon(batched, lr=0.02, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for first, second in zip(plain[step // 3 :], batched[step // 3 :], strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        one.step()
        other.step()
        for first, second in zip(plain, batched, strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=2e-3)
        other.load_state_dict(deepcopy(one.state_dict()))


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=needs_muon)])
def test_every_parameter_is_stepped_once(optimizer: str) -> None:
    model = tiny()
    stepped = [
        id(parameter)
        for each in make_optimizers(model, changed(optimizer=optimizer))
        for group in each.param_groups
        for parameter in group["params"]
    ]
    assert sorted(stepped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=needs_muon)])
def test_version_counters_see_a_step(optimizer: str) -> None:
    """They say whether what was computed from the weights still holds, and a fused step does not count by itself."""
    model = tiny()
    before = [parameter._version for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for each in make_optimizers(model, changed(optimizer=optimizer)):
        each.step()
    assert all(parameter._version > old for parameter, old in zip(model.parameters(), before, strict=True))


def test_a_rate_below_the_filters_holds_for_all() -> None:
    (optimizer,) = make_optimizers(tiny(), changed(lr=5e-4))
    set_learning_rates(optimizer, changed(lr=5e-4), 30)
    assert len({group["lr"] for group in optimizer.param_groups}) == 1


def test_what_can_not_be_is_refused_before_anything_is_written(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(GenomeLMError, match=r"muon needs PyTorch 2\.9 or later, here is .*use adamw"):
        train(one_source(genome.store.path, genome.intervals), tmp_path / "run", TINY_MODEL, ALL)
    assert not (tmp_path / "run").exists()
    for config in (changed(ema=0.9), changed(ema=0.9, optimizer="adamw")):
        with pytest.raises(GenomeLMError, match="use --strategy ddp"):
            check_optimizer(config, sharded=True)
    check_optimizer(changed(), sharded=True)


def test_a_schedule_that_stays_and_decays() -> None:
    config = TrainingConfig((Stage(1, 100),), lr=2.0, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.25)
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:75] == [2.0] * 65
    assert rates[75] == pytest.approx(2 * (0.1 + 0.9 * (1 - math.sqrt(1 / 25))))
    assert rates[-1] == pytest.approx(0.2)
    assert all(one > two for one, two in pairwise(rates[74:]))


@pytest.mark.parametrize(
    ("steps", "warmup", "decay", "expected"),
    [
        (1, 0.0, 0.0, [1.0]),
        (3, 0.0, 0.0, [1.0, 1.0, 1.0]),
        (2, 0.0, 1.0, [1.0, 0.5]),
        (4, 1.0, 0.0, [0.25, 0.5, 0.75, 1.0]),
        (4, 0.5, 0.5, [0.5, 1.0, 0.5 + 0.5 * (1 - math.sqrt(0.5)), 0.5]),
    ],
)
def test_edges_of_the_schedule(steps: int, warmup: float, decay: float, expected: list[float]) -> None:
    assert [warmup_stable_decay(step, steps, warmup, 0.5, decay) for step in range(steps)] == pytest.approx(expected)


def test_the_limit_follows_the_median() -> None:
    limit = NormLimit(1.0, 2.0)
    for norm in [0.1] * (FEWEST - 1) + [0.0, math.nan, math.inf]:
        limit.add(norm)
        assert limit() == 1.0  # too few; a norm of 0 or none does not count
    limit.add(9.0)
    assert limit() == pytest.approx(0.2)
    for _ in range(WINDOW):
        limit.add(3.0)
    assert limit() == 1.0  # never above the largest norm
    assert NormLimit(1.0, 0.0)() == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd', use adamw, muon"),
        ({"schedule": "linear"}, "schedule is 'linear', use cosine, wsd"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"clip_factor": -1.0}, "clip_factor is -1.0"),
        ({"filter_lr": 0.0}, "filter_lr is 0.0"),
        ({"schedule": "wsd", "warmup_fraction": 0.9}, r"warmup_fraction 0\.9 and decay_fraction 0\.2 are more than"),
        ({"decay_fraction": 0.5}, "decay_fraction goes with schedule wsd"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(GenomeLMError, match=named):
        changed(**change)


def test_recipes_are_options_of_the_command_line(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from genome_lm import training
    from genome_lm_cli.main import app

    seen: list[TrainingConfig] = []

    def noted(
        data: object, out: Path, shape: object, config: TrainingConfig, **_: object
    ) -> run_module.TrainingResult:
        seen.append(config)
        return run_module.TrainingResult(None, 0, None, {}, rank=1)

    monkeypatch.setattr(training, "train", noted, raising=False)
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(tmp_path / "run")]
    options = "--optimizer muon --schedule wsd --clip-factor 2 --ema 0.99 --filter-lr 0.01".split()
    result = CliRunner().invoke(app, ["train", *data, "--preset", "tiny-1k", "--stages", "32:5", *options])
    assert result.exit_code == 0, result.output
    expected = TrainingConfig(
        (Stage(32, 5),), optimizer="muon", schedule="wsd", clip_factor=2.0, ema=0.99, filter_lr=0.01
    )
    assert seen == [expected]


@pytest.mark.parametrize("limit", [0.1, 100.0, math.inf])
def test_gradients_are_clipped_as_pytorch_does_it(limit: float) -> None:
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), (), (2,))]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    for mine, other in zip(ours[:-1], theirs, strict=False):  # the last one has none
        mine.grad = torch.randn(mine.shape)
        other.grad = mine.grad.clone()
    assert torch.equal(clip_gradients(ours, limit), nn.utils.clip_grad_norm_(theirs, limit))
    for mine, other in zip(ours[:-1], theirs, strict=False):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=0)
    assert ours[-1].grad is None
