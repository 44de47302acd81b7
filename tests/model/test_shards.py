"""Sequences that 2 and 4 processes share give what one process gives, forward and backward."""

import multiprocessing
from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from genome_lm.alphabet import PAD
from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import model_losses
from genome_lm.model.shards import Context, Shard

PROCESSES = 4
SHAPE = {"d_model": 16, "n_layer": 3, "max_length": 40, "filter_order": 8, "embed_dropout": 0.0, "heads": 4}
EXPLICIT = {"se_taps": 3, "mr_taps": 17, "filter_groups": 4}
CASES: list[tuple[dict[str, Any], int]] = [
    ({}, 40),
    ({"order": 3, "d_model": 10}, 37),
    ({"layout": "hyena-se, hyena-mr, hyena", "ngram_order": 5, **EXPLICIT}, 39),
    ({"layout": "hyena-mr, attention, attention-local", "attention_window": 9, **EXPLICIT}, 38),
    ({"layout": "hyena, hyena-mr, attention", **EXPLICIT}, 3),  # a device has nothing
]


def test_devices_that_share_sequences_compute_what_one_does(tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload([__name__])
    mp.start_processes(_process, (str(tmp_path / "store"),), PROCESSES, start_method="forkserver")


def _process(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=100)
    dist.init_process_group("gloo", f"file://{store}", timeout, PROCESSES, rank)
    pairs = [dist.new_group([first, first + 1]) for first in range(0, PROCESSES, 2)]
    for group in (pairs[rank // 2], dist.group.WORLD):
        assert group is not None
        for fields, length in CASES:
            _compare(Context(group), ModelConfig(**{**SHAPE, **fields}), length)
    _compare_int8(pairs[rank // 2])
    dist.destroy_process_group()


def _compare(context: Context, config: ModelConfig, length: int) -> None:
    """A model by itself, and a copy of it that shares the same sequences with other devices."""
    torch.manual_seed(0)
    alone = HyenaLM(config)
    alone.add_conditions(["yeast"])
    for parameter in alone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shared = deepcopy(alone)
    shared.backbone.context = context
    models = alone, shared
    ids = torch.randint(7, 12, (2, length + 1), dtype=torch.uint8)
    ids[1, length // 2 :] = PAD

    batch = ids[:, :-1], ids[:, 1:], torch.rand(2, length)
    losses, weights = zip(*(model.row_losses(*batch) for model in models), strict=True)
    _assert_same(models, losses, 1e-5)
    torch.testing.assert_close(_summed(context, [weights[1]])[0], weights[0])

    states = [model.double().backbone(batch[0]) for model in models]
    own, cotangent = shared.backbone.own(length), torch.rand_like(states[0])
    torch.testing.assert_close(states[1], states[0][:, own], rtol=1e-10, atol=1e-10)
    parts = (states[0] * cotangent).sum(), (states[1] * cotangent[:, own]).sum()
    _assert_same(models, parts, 1e-10)
    shared.backbone.activation_checkpointing = True
    again = (shared.backbone(batch[0]) * cotangent[:, own]).sum()
    _assert_same(models, ((alone.backbone(batch[0]) * cotangent).sum(), again), 1e-10)

    for model in models:
        model.eval().condition = "yeast"
    expected, joined = (model_losses(model, ids) for model in models)
    torch.testing.assert_close(joined, expected, rtol=1e-10, atol=1e-10, equal_nan=True)


def _compare_int8(pair: dist.ProcessGroup) -> None:
    """Values that are sent as bytes, blocks of zeros among them, forward and backward; what is not finite."""
    shard = Shard(Context(pair, "int8"), 601)
    torch.manual_seed(0)
    whole, cotangent = torch.randn(2, 2, 3, 601).exp()
    whole[1, 2] = 0
    own = slice(shard.start, shard.end)
    x, back = whole[..., own].requires_grad_(), cotangent[..., own]
    y = shard.by_channels(lambda u: 2 * u, x)
    (y * back).sum().backward()
    assert x.grad is not None
    for value, exact in ((y, 2 * x), (x.grad, 2 * back)):
        assert 0 < (value - exact).abs().max() < 2 * exact.max() / 254
    assert not y.detach()[1, 2].any()
    assert not shard.by_channels(lambda u: u, torch.full_like(x, torch.inf)).isfinite().any()


def _assert_same(models: Sequence[HyenaLM], values: Sequence[Tensor], bound: float) -> None:
    """Values of a model alone, and their parts of the devices, and the gradients of their sums."""
    context = models[1].backbone.context
    assert context is not None
    torch.testing.assert_close(_summed(context, [values[1]])[0], values[0], rtol=bound, atol=bound)
    expected, parts = (
        torch.autograd.grad(value.sum(), [*model.parameters()]) for model, value in zip(models, values, strict=True)
    )
    for one, part in zip(expected, _summed(context, parts), strict=True):
        torch.testing.assert_close(part, one, rtol=bound, atol=bound * float(one.abs().max()))


def _summed(context: Context, parts: Sequence[Tensor]) -> list[Tensor]:
    whole = torch.cat([part.detach().flatten() for part in parts])
    dist.all_reduce(whole, group=context.group)
    sizes = [part.numel() for part in parts]
    return [piece.view_as(part) for piece, part in zip(whole.split(sizes), parts, strict=True)]
