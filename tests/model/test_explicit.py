"""The operators with explicit filters: their definition, and each faster form against the plain one."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM, backbone, prefill
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import mixer_class
from genome_lm.model.recompute import (
    alternative_states,
    plain_alternative_states,
    plain_reference_states,
    reference_states,
)
from genome_lm.model.stepping import Stepper
from tests import tiny
from tests.model.test_cuda_memory import peak

OPERATORS = "hyena-se", "hyena-mr"
LAYOUTS = *OPERATORS, "hyena-se,hyena-mr,hyena"
SHAPE = {"d_model": 12, "n_layer": 3, "max_length": 126, "filter_order": 8, "mr_taps": 30, "embed_dropout": 0.0}


random_model = partial(tiny.random_model, SHAPE)


def random_ids(batch: int, length: int) -> Tensor:
    return torch.randint(7, 11, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("groups", [0, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_by_its_definition(name: str, groups: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(**{**SHAPE, "filter_groups": groups})
    mixer = mixer_class(name)(config).double()
    x, count, taps = torch.randn(2, 50, 12, dtype=torch.float64), groups or 12, 7 if name == "hyena-se" else 30
    assert mixer.taps.shape == (count, taps)
    lags = torch.arange(taps - 1, -1, -1)
    h = mixer.taps
    if name == "hyena-mr":
        rates = 10 ** torch.linspace(-2, 2, count)
        h = h * torch.exp(-rates[:, None] * lags / (taps - 1))
    z = F.conv1d(F.pad(mixer.in_proj(x).mT, (2, 0)), mixer.short_conv.weight, mixer.short_conv.bias, groups=36)
    x0, x1, v = z.chunk(3, dim=1)
    u = x1 * v
    c = mixer.skip[:, None] * u if name == "hyena-mr" else torch.zeros_like(u)
    for channel in range(12):
        for t in range(50):
            for tap in range(taps):
                if t >= lags[tap]:
                    c[:, channel, t] += h[channel * count // 12, tap] * u[:, channel, t - lags[tap]]
    torch.testing.assert_close(mixer(x), mixer.out_proj((x0 * c).mT), rtol=0, atol=1e-6)  # rates are float32


@pytest.mark.parametrize("groups", [0, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_fused_sub_block_equals_the_plain_one(name: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = random_model(layout=name, filter_groups=groups), torch.randn(2, 70, 12, dtype=torch.float64)
    block, x, results = model.backbone.blocks[0], x.requires_grad_(), []
    tensors = [x, *block.norm1.parameters(), *block.mixer.parameters()]
    for kernel in ("cpu", "reference"):
        monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
        out = block.mixer.add(x, block.norm1, block.dropout, inplace=False)
        with torch.no_grad():
            without = block.mixer.add(x.clone(), block.norm1, block.dropout, inplace=True)
        results.append([out, without, *torch.autograd.grad(out.sin().sum(), tensors)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("short", "se", "mr"), [(3, 7, 30), (1, 1, 1), (5, 4, 40)])
def test_stepping_equals_the_full_forward(
    layout: str, short: int, se: int, mr: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of unequal lengths, shorter and longer than the taps, one that several sequences go on from."""
    monkeypatch.setattr(prefill, "CPU", prefill.Pieces(12, 32 << 20, 8))
    model = random_model(layout=layout, short_filter_order=short, se_taps=se, mr_taps=mr, filter_groups=4)
    ids, lengths, rows, length = random_ids(3, 128), torch.tensor([1, 6, 68]), torch.tensor([2, 0, 1, 0]), 60
    with torch.no_grad():
        full = model(ids)
    stepper = Stepper(model, length)
    for _ in range(2):  # the same stepper begins anew
        logits = [stepper.prefill(ids[:, :68], lengths, rows)]
        logits += [stepper.step(ids[rows, lengths[rows] + position]) for position in range(length)]
        expected = torch.stack([full[row, lengths[row] - 1 : lengths[row] + length] for row in rows])
        torch.testing.assert_close(torch.stack(logits, dim=1), expected)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", [0, 31, 60])
def test_alternatives_equal_full_passes(
    layout: str, first: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
    model = random_model(layout=layout).backbone
    ids, ends = random_ids(3, 120), random_ids(4, 40)
    rows, starts = torch.tensor([0, 2, 1, 1]), torch.tensor([first, first + 1, first + 20, 80])
    reference, plain = reference_states(model, ids, first), plain_reference_states(model, ids, first)
    torch.testing.assert_close(reference.hidden, plain.hidden)
    states = alternative_states(model, reference, rows, starts, ends)
    torch.testing.assert_close(states, plain_alternative_states(model, plain, rows, starts, ends))


@pytest.mark.parametrize("name", OPERATORS)
def test_alternatives_need_the_reach_and_nothing_before(name: str) -> None:
    """What is before the positions ahead of an end may be anything; the first of them still counts."""
    model, first = random_model(layout=name, n_layer=1).backbone, 60
    reach, ids, end = model.blocks[0].mixer.reach, random_ids(1, 100), random_ids(1, 40)

    def states(changed: int) -> Tensor:
        other = ids.clone()
        other[0, changed] = 7 + (other[0, changed] - 6) % 4
        reference = reference_states(model, other, first)
        assert reference.kept == (None,)
        return alternative_states(model, reference, torch.tensor([0]), torch.tensor([first]), end)

    expected = states(0)
    torch.testing.assert_close(states(first - reach - 1), expected, rtol=0, atol=0)
    assert not torch.equal(states(first - reach), expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_compiled_model_computes_the_same(name: str) -> None:
    model, ids = random_model(layout=name, n_layer=1), random_ids(2, 41)
    eager, compiled = model(ids), torch.compile(model, backend="aot_eager", fullgraph=True)(ids)
    parameters = [*model.parameters()]
    gradients = [torch.autograd.grad(out.sin().sum(), parameters) for out in (compiled, eager)]
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_small_model_learns(name: str) -> None:
    """A period of five bases is learned within 60 steps: it takes taps that reach back as far."""
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(**{**SHAPE, "layout": name, "n_layer": 1, "d_model": 16}))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        period = torch.randint(7, 11, (8, 5)).repeat(1, 13)
        loss = model.loss(period[:, 5:-1], period[:, 6:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_counts_are_what_exists_at_one_time_on_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
    monkeypatch.setattr(backbone, "STORED_BYTES", 1 << 60)
    config = ModelConfig(
        d_model=128, n_layer=2, max_length=20_000, embed_dropout=0.0, layout=",".join(OPERATORS), filter_groups=16
    )
    batch = GpuBatch(config, 4, 20_000, dtype, has_triton=False)
    assert cuda_training_bytes(batch) == pytest.approx(peak(batch, training=True), rel=0.02)
    every = range(batch.config.n_layer)
    assert cuda_training_bytes(batch, every) == pytest.approx(peak(batch, training=True, recomputed=every), rel=0.02)
    assert cuda_forward_bytes(batch) == pytest.approx(peak(batch, training=False), rel=0.1)


def test_steps_keep_as_many_numbers_as_is_said() -> None:
    for name in OPERATORS:
        model = random_model(layout=name, n_layer=2)
        steps = mixer_class(name).steps([block.mixer for block in model.backbone.blocks], 50)
        stepper = Stepper(model, 50)
        stepper._states, stepper._layers = [steps], [(steps, 0), (steps, 1)]
        stepper.prefill(random_ids(3, 20))
        kept = sum(ring._inputs.numel() for rings in steps._rings for ring in rings)
        assert kept == 2 * 3 * mixer_class(name).step_values(model.config, 20, 50)


def test_groups_divide_the_width() -> None:
    with pytest.raises(GenomeLMError, match="filter_groups is 5, must divide d_model, 12"):
        ModelConfig(**{**SHAPE, "filter_groups": 5})


def test_fields_at_their_defaults_are_not_in_files() -> None:
    config = ModelConfig(16, 2, 100, layout="hyena-se,hyena-mr", mr_taps=64)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert {"layout", "mr_taps"} <= set(config.to_dict())
    assert not {"se_taps", "filter_groups"} & set(config.to_dict())
