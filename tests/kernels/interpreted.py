"""The kernels in Triton's interpreter. Run by test_triton.py in a process with TRITON_INTERPRET=1."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.library import opcheck

from genome_lm.config import ModelConfig
from genome_lm.direction import CAUSAL
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.adapters import prepare
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.gpukit.forms import CONVOLUTIONS
from genome_lm.kernels import causal_conv, gated_causal_conv, implicit_filter, sub_blocks
from genome_lm.kernels.conv import reference
from genome_lm.kernels.triton import conv as kernels
from genome_lm.kernels.triton import (
    costs,
    filter_launch,
    filter_plan,
    launch,
    product_launch,
    row_launch,
)
from genome_lm.kernels.triton import plan as plans
from genome_lm.kernels.triton import sub_blocks as fused
from genome_lm.kernels.triton.plan import Plan, Precision, make_plan, precision_of
from genome_lm.model import HyenaLM
from genome_lm.model.backbone import Block
from genome_lm.model.mixers.hyena import HyenaOperator
from tests.kernels.triton_cases import (
    SUB_BLOCKS,
    assert_core_equals_reference,
    assert_equal_gradients,
    assert_equals_reference,
    assert_filter_equals_reference,
    assert_near,
    assert_sub_block_equals_reference,
    core_operands,
    errors,
    network_of,
    network_weights,
    operands,
    sub_block_operands,
)

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


@pytest.fixture(autouse=True)
def by_ffts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with Toeplitz matrices have tests of their own."""
    monkeypatch.setattr(costs, "CHOICE", "FFTs")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that short sequences take several passes, groups of channels, and rows in blocks.

    Blocks have many columns, since the interpreter takes as long for a program whatever its size.
    """

    def plan(length: int, dtype: torch.dtype, backward: bool = False, precision: Precision | None = None) -> Plan:
        sizes = make_plan(length, precision or precision_of(dtype), 16, 16, warps=4)
        return sizes._replace(block_rows=16, block_columns=128, step=16)

    monkeypatch.setattr(launch, "plan_for", plan)
    monkeypatch.setattr(costs, "plan_for", plan)
    monkeypatch.setattr(plans, "WORKSPACE_BYTES", 1 << 16)
    monkeypatch.setattr(launch, "PROGRAMS", 4)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, torch.float16], ids=str)
@pytest.mark.parametrize("length", [1, 37, 511])
def test_one_program(length: int, dtype: torch.dtype) -> None:
    assert_equals_reference(2, 3, length, dtype, "cpu")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 257), (2, 1, 1_001)], ids=str)
def test_several_passes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert_equals_reference(*shape, dtype, "cpu")


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize(("length", "taps"), [(1, 3), (37, 10)])
def test_short_convolutions_in_one_program(length: int, taps: int, dtype: torch.dtype) -> None:
    """Of ten taps, the first is more than an octet of positions away."""
    assert_core_equals_reference(2, 2, length, dtype, taps)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("dtype", "taps", "batch"), [(FLOAT32, 4, 1), (BFLOAT16, 3, 2)], ids=str)
def test_short_convolutions_in_several_passes(
    dtype: torch.dtype, taps: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of two channels and of one, and blocks that end within a row of the short convolutions' gradients."""
    monkeypatch.setattr(plans, "TAPS_BLOCK", 128)
    monkeypatch.setattr(plans, "TAPS_OCTETS", 8)
    monkeypatch.setattr(launch, "TAPS_OCTETS", 8)
    item = 2 if dtype == BFLOAT16 else 4
    monkeypatch.setattr(plans, "WORKSPACE_BYTES", 2 * (2 * batch + 1) * 2 * 2 * 256 * item)
    assert_core_equals_reference(batch, 3, 259, dtype, taps)


@pytest.mark.usefixtures("small")
def test_gates_of_unlike_strides_in_several_passes() -> None:
    inputs = operands(1, 2, 257, FLOAT32, "cpu")
    x0, x1, *others = (x.detach() for x in inputs)
    turned = [x0.mT.contiguous().mT, torch.stack([x1, x1], dim=-1)[..., 0], *others]
    assert len({x.stride() for x in turned[:3]}) == 3
    for x in turned:
        x.requires_grad_()
    y, expected = launch.gated_causal_conv(*turned), launch.gated_causal_conv(*inputs)
    assert torch.equal(y, expected)
    dy = torch.randn_like(y)
    assert all(map(torch.equal, torch.autograd.grad(y, turned, dy), torch.autograd.grad(expected, inputs, dy)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("batch", [7, 9])
def test_a_batch_is_split_among_programs(batch: int) -> None:
    """Two programs a channel, with turns for four or five sequences each: the second has one turn too many."""
    assert_equals_reference(batch, 2, 100, FLOAT32, "cpu")


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, torch.float16], ids=str)
@pytest.mark.parametrize("length", [1_023, 1_024])
def test_the_largest_tile(length: int, dtype: torch.dtype) -> None:
    assert_equals_reference(1, 2, length, dtype, "cpu")


@pytest.mark.usefixtures("small")
def test_groups_of_channels_share_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of two channels, of which the last has one: nothing of a group before may be left in its results."""
    inputs = operands(1, 5, 300, FLOAT32, "cpu")
    plan = launch.plan_for(300, FLOAT32)
    sequence = 2 * plan.n_columns * plan.tile * 4
    monkeypatch.setattr(plans, "WORKSPACE_BYTES", 2 * 3 * sequence)
    streams = launch.Streams(*inputs[:3], inputs[4], 0)
    groups = list(launch._groups(plan, streams, inputs[4], 3))
    assert [group.channels for group, _ in groups] == [2, 2, 1]
    assert len({rooms.data_ptr() for _, rooms in groups}) == 1
    assert_equals_reference(1, 5, 300, FLOAT32, "cpu")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("backward", [False, True])
def test_launches_are_as_many_as_counted(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel once for a group of two channels and once for one channel."""
    launched = list[str]()

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(kernels, name)

        def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
            launched.append(self.name)
            return self.kernel[grid]

    for name in CONVOLUTIONS:
        monkeypatch.setattr(kernels, name, Counted(name))
    channels, length = 3, 300
    z, weight, bias, h, skip = (x.detach() for x in core_operands(1, channels, length, BFLOAT16))
    short, sequences = launch.short_of(weight, bias), 3 if backward else 2
    monkeypatch.setattr(plans, "WORKSPACE_BYTES", 2 * sequences * 2 * 512 * 2)
    if backward:
        launch._core_backward(torch.ones(1, channels, length, dtype=BFLOAT16), z, short, h, skip)
    else:
        launch._core(z, short, h, skip)
    assert len(launched) == costs.launches(length, BFLOAT16, backward, 1, channels, weight.shape[-1])
    assert len(launched) == 2 * (8 if backward else 5)


def test_the_largest_tile_of_bfloat16() -> None:
    """Of 128 × 64."""
    for backward in (False, True):
        plan = launch.plan_for(8_190, BFLOAT16, backward, hopper=True)
        assert plan is not None
        assert plan.tile == 8_192
    assert_core_equals_reference(1, 1, 8_190, BFLOAT16)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_production_sizes_in_several_passes(dtype: torch.dtype) -> None:
    assert_equals_reference(1, 1, 1_503, dtype, "cpu")


@pytest.mark.parametrize(
    ("setting", "dtype", "least", "most"),
    [("highest", FLOAT32, 0, 1e-6), ("high", FLOAT32, 2e-6, 2e-5), ("highest", torch.float16, 2e-6, 1e-3),
     ("highest", BFLOAT16, 2e-3, 1e-2)],
    ids=str,
)  # fmt: skip
def test_errors_of_each_precision(setting: str, dtype: torch.dtype, least: float, most: float) -> None:
    """Each is as precise as promised, and the next one is not. Products of float16 in bfloat16 would fail."""
    torch.set_float32_matmul_precision(setting)
    try:
        for name, error in errors(1, 1, 900, dtype).items():
            assert least * (name != "dbias") <= error.largest <= most, name
    finally:
        torch.set_float32_matmul_precision("highest")


def test_errors_of_bfloat16_at_the_small_end_of_a_gradient() -> None:
    """They are alike everywhere, so they are larger beside the last quarter of a filter's gradient."""
    of = errors(1, 1, 900, BFLOAT16)
    assert all(error.whole <= 8e-3 for error in of.values())
    assert of["dh"].whole >= 4e-3
    assert of["dh"].whole < of["dh"].end <= 2e-2


@pytest.mark.parametrize("length", [40, 259])
@pytest.mark.usefixtures("small")
def test_one_operation_for_pytorch(length: int) -> None:
    """Schema, fake tensors, autograd registration and tracing with dynamic shapes, as torch.compile needs them."""
    opcheck(launch._gated, operands(1, 1, length, FLOAT32, "cpu"))


@pytest.mark.usefixtures("small")
def test_with_short_convolutions_one_operation_for_pytorch() -> None:
    z, weight, bias, h, skip = core_operands(1, 1, 40, FLOAT32)
    short = launch.short_of(weight, bias, torch.randn(3)).detach().requires_grad_()
    opcheck(launch._core, [z, short, h, skip])


@pytest.mark.parametrize(
    ("width", "channels", "inner", "features", "length", "span"),
    [(16, 3, 2, 5, 1, 3), (64, 70, 2, 5, 37, 40), (8, 5, 0, 9, 259, 1_002), (12, 150, 3, 3, 100, 100)],
    ids=str,
)
def test_filters(
    width: int, channels: int, inner: int, features: int, length: int, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrow networks, which are padded; blocks of channels and positions that are not whole; several layers."""
    monkeypatch.setattr(filter_plan, "PROGRAMS", 3)
    assert_filter_equals_reference(network_weights(width, channels, inner, features), length, span)


def test_a_filter_is_one_operation_for_pytorch() -> None:
    first, inner, biases, sines, out = (
        torch.randn(shape, requires_grad=True) for shape in ((5, 16), (1, 16, 16), (2, 16), (16,), (3, 16))
    )
    tests = "test_schema", "test_autograd_registration", "test_faketensor"  # tracing: with the compiled model
    arguments = [first, inner, biases, sines, out, -torch.rand(3), 20, 30, 0.05]
    opcheck(filter_launch._filter, arguments, test_utils=tests)


def test_wide_networks_and_filters_of_no_positions_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    wide = network_of(network_weights(2 * filter_launch.WIDEST, 2, 0))
    assert implicit_filter(wide, 10, 10).shape == (2, 10)
    assert implicit_filter(network_of(network_weights(16, 2, 0)), 0, 10).shape == (2, 0)
    with pytest.raises(GenomeLMError, match="no filters' networks of width 256"):
        filter_launch.implicit_filter(wide, 10, 10)


def test_empty_batch() -> None:
    inputs = operands(0, 2, 30, FLOAT32, "cpu")
    y = launch.gated_causal_conv(*inputs)
    assert y.shape == (0, 2, 30)
    assert torch.autograd.grad(y.sum(), inputs)[3].abs().sum() == 0


def test_forced_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = operands(1, 2, 50, FLOAT32, "cpu")
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    y = gated_causal_conv(*inputs)
    assert "genome_lm_gated_causal_conv" in type(y.grad_fn).__name__
    assert_near(y, reference.gated_causal_conv(*(x.double() for x in inputs)), 1e-5)
    assert_near(causal_conv(*inputs[2:]), reference.causal_conv(*(x.double() for x in inputs[2:])), 1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("length", "layers", "recompute"), [(1, 1, True), (37, 2, False), (259, 1, False)])
def test_a_model_computes_what_the_reference_does(
    length: int, layers: int, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and all gradients, with each sub-block of each layer and the loss in Triton."""
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=3, n_layer=layers, d_inner=6, max_length=length, filter_order=4, embed_dropout=0.0
    )  # fmt: skip
    model, ids = HyenaLM(config), torch.randint(7, 11, (1 if length > 200 else 2, length + 1))
    model.backbone.activation_checkpointing = recompute
    taken = list[str]()

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *operands: taken.append(name) or operation(*operands)

    for of, name in (
        (filter_launch, "implicit_filter"), (fused, "hyena_branch"), (fused, "mlp_branch"), (fused, "mlp_sub_block"),
        (fused, "head_losses"),
    ):  # fmt: skip
        monkeypatch.setattr(of, name, counted(name, getattr(of, name)))
    losses, gradients = [], []
    for kernel in ("triton", "reference"):
        monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
        losses.append(model.loss(*CAUSAL.shifted(ids)))
        gradients.append(torch.autograd.grad(losses[-1], list(model.parameters())))
        mixer = ["implicit_filter", "hyena_branch"]
        blocks = [*[*mixer, "mlp_branch"] * (layers - 1), *mixer, "mlp_sub_block"]
        assert taken == [*blocks, "head_losses", *(blocks if recompute else [])]
    torch.testing.assert_close(*losses)
    for got, expected in zip(*gradients, strict=True):
        assert_near(got, expected.double(), 1e-4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("length", "whole"), [(40, False), (40, True), (300, True)])
def test_inference_keeps_spectra_as_long_as_the_weights_stay(
    length: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one program, and of several passes over groups of channels, the last of which has one; and whole blocks."""
    monkeypatch.setattr(plans, "WORKSPACE_BYTES", 2 * 2 * 2 * 512 * 4)
    torch.manual_seed(0)
    config = ModelConfig(d_model=3, n_layer=1, d_inner=6, max_length=length, filter_order=4)
    block = Block(config, HyenaOperator).eval()
    mixer, x = block.mixer, torch.randn(1, length, 3)
    cache = mixer.filter.cache

    def outputs(kernel: str) -> torch.Tensor:
        monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
        with torch.no_grad():
            return block(x) if whole else mixer(x)

    first = outputs("triton")
    assert_near(first, outputs("reference").double(), 1e-5)
    (held,) = cache._held.values()
    assert held.spectra.nbytes == launch.spectra_bytes(3, length, FLOAT32)
    with monkeypatch.context() as patch:
        patch.delattr(filter_launch, "implicit_filter")  # nothing is made again
        assert torch.equal(outputs("triton"), first)
    with torch.no_grad():
        mixer.filter.out.weight.mul_(2)
    changed = outputs("triton")
    assert not torch.allclose(changed, first)
    assert_near(changed, outputs("reference").double(), 1e-5)
    cache.budget = held.spectra.nbytes - 1
    with torch.no_grad():
        assert mixer.filter.core_spectra(length, FLOAT32) is None
        cache.budget = 1 << 30
        assert mixer.train().filter.core_spectra(length, FLOAT32) is None


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program over rows takes several tiles."""
    monkeypatch.setattr(row_launch, "PROGRAMS", 2)


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows and columns, and sums in several steps."""
    for name in ("ROWS", "COLUMNS", "COLUMNS_BACKWARD", "STEP"):
        monkeypatch.setattr(product_launch, name, 16)


@pytest.mark.usefixtures("few_programs", "small_products")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", SUB_BLOCKS)
def test_sub_blocks(name: str, half: bool) -> None:
    """Values and all gradients, at rows and channels that fill no tile; within autocast the MLP's products too.

    Hyena's are few, since the interpreter takes long for each channel's convolution.
    """
    shape = {"hyena": (1, 7, 3), "head": (2, 33, 5)}.get(name.split()[0], (3, 7, 18) if half else (2, 133, 5))
    assert_sub_block_equals_reference(name, shape, half, inner=37 if half else 12)


@pytest.mark.usefixtures("few_programs", "small_products")
def test_the_gelu_by_itself_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels over two blocks of the hidden layer's columns, behind cuBLAS's products."""
    monkeypatch.setattr(product_launch, "FUSED_WIDTH", 11)
    monkeypatch.setattr(product_launch, "FUSED_WIDTH_BACKWARD", 11)
    assert_sub_block_equals_reference("mlp", (3, 5, 12), half=True, inner=150)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("dtype", [BFLOAT16, torch.float16], ids=str)
def test_a_residual_stream_in_half_precision(dtype: torch.dtype) -> None:
    """As a model has it whose parameters are: sums over rows are float32 nonetheless."""
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in sub_block_operands("mlp", (1, 150, 20), 40)]
    assert_equal_gradients(SUB_BLOCKS["mlp"](fused), SUB_BLOCKS["mlp"](sub_blocks), inputs, dtype)


@pytest.mark.parametrize("name", SUB_BLOCKS)
def test_sub_blocks_of_frozen_weights(name: str) -> None:
    """Only the stream needs a gradient, as below a layer that LoRA adapts."""
    x, *others = sub_block_operands(name, (1, 5, 3), 8)
    others = [other.detach() for other in others]
    gradients = [torch.autograd.grad(SUB_BLOCKS[name](of)(x, *others).sum(), x)[0] for of in (fused, sub_blocks)]
    assert_near(gradients[0], gradients[1].double(), 1e-5)


def test_operations_over_rows_for_pytorch() -> None:
    """Schemas that say what is written to, and fake tensors."""
    x, branch, bias, *_ = sub_block_operands("mlp", (1, 20, 4), 8)
    x, branch, bias = x.detach()[0], branch.detach()[0], bias.detach()
    sums, square = torch.empty(1, 3, 4), torch.rand(1, 4, 4)
    checks = ("test_schema", "test_faketensor")  # torch.compile never sees them
    for operation, given in (
        (row_launch._norm, (x, branch, bias, bias, bias, 1e-5, torch.empty_like(x), torch.empty_like(x))),
        (row_launch._norm_backward, (x, branch, x, bias, bias, 1e-5, torch.empty_like(x), None, None, sums)),
        (row_launch._gelu_backward, (x.clone(), branch.clone(), bias, torch.empty(1, 4))),
        (row_launch._round, (x, torch.empty_like(x, dtype=BFLOAT16), torch.empty(1, 4))),
        (product_launch._gelu, (x, *square, bias, torch.empty_like(x))),
        (product_launch._gelu_backward, (x, *square, bias, branch, *square, *torch.empty(2, 20, 4), sums[0, :1])),
    ):
        opcheck(operation, given, test_utils=checks)


@pytest.mark.parametrize("name", ["mlp", "head"])
def test_no_rows(name: str) -> None:
    inputs = sub_block_operands(name, (1, 0, 4), 8)
    y = SUB_BLOCKS[name](fused)(*inputs)
    assert y.numel() == 0
    assert torch.autograd.grad(y.sum(), inputs[1 if name == "head" else 2])[0].abs().sum() == 0


def test_where_dropout_drops_sub_blocks_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    taken = list[str]()
    for name in ("hyena_branch", "mlp_sub_block"):
        monkeypatch.setattr(fused, name, lambda *_, name=name: taken.append(name) or pytest.fail("not plain"))
    config = ModelConfig(d_model=3, n_layer=1, d_inner=6, max_length=4, filter_order=4, resid_dropout=0.5)
    model, ids = HyenaLM(config), torch.randint(7, 11, (1, 5))
    model.loss(*CAUSAL.shifted(ids)).backward()
    with pytest.raises(pytest.fail.Exception), torch.no_grad():
        model.eval()(ids[:, :4])
    assert taken == ["hyena_branch"]


def test_a_model_with_lora_and_within_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(d_model=4, n_layer=1, d_inner=8, max_length=32, filter_order=4, embed_dropout=0.0))
    prepare(model, FinetuneConfig(method="lora", lora_rank=2))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.5)
    ids, gradients, half = torch.randint(7, 11, (2, 34)), [], []
    for kernel in ("triton", "reference"):
        monkeypatch.setenv("GENOME_LM_KERNEL", kernel)
        gradients.append(torch.autograd.grad(model.loss(*CAUSAL.shifted(ids)), trained))
        with torch.autocast("cpu", dtype=BFLOAT16), torch.no_grad():
            half.append(model.loss(*CAUSAL.shifted(ids)))
    for got, expected in zip(*gradients, strict=True):
        assert_near(got, expected.double(), 1e-4)
    torch.testing.assert_close(*half, rtol=5e-3, atol=0)


@pytest.mark.usefixtures("small")
def test_a_compiled_model_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of a model's loss and gradients as one graph, in which the operation is a single node."""
    monkeypatch.setenv("GENOME_LM_KERNEL", "triton")
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(d_model=4, n_layer=1, d_inner=8, max_length=64)).eval()
    ids = torch.randint(7, 11, (1, 41))
    eager, compiled = model(ids), torch.compile(model, backend="aot_eager", fullgraph=True)(ids)
    torch.testing.assert_close(compiled, eager)
    parameters = list(model.parameters())
    seed = torch.randn_like(eager)
    for got, expected in zip(
        torch.autograd.grad(compiled, parameters, seed), torch.autograd.grad(eager, parameters, seed), strict=True
    ):
        torch.testing.assert_close(got, expected)
