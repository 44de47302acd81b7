"""The Triton kernels against float64: values, gradients, and what a GPU makes of streams, graphs and large arrays."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.gpukit.kit import Case, Kit, Skip, needs_gpu
from genome_lm.kernels import Backend, forced_backend
from genome_lm.kernels.conv import reference
from genome_lm.model.mixers.filter import ImplicitFilter

DTYPES = torch.float32, torch.float16, torch.bfloat16
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""Largest error allowed, relative to the largest value expected."""
FILTER_BOUND = 1e-4
"""The same of filters, whose sines enlarge the rounding of float32, in PyTorch as well."""
Operation = Callable[..., Tensor]
"""Of operands and of the meaning of its namesake in `genome_lm.kernels.conv.reference`."""
_FEW = 64
"""Positions below which the bound is wider, and several draws are compared at once.

Over few values the largest error is not small beside the largest value: a gradient that is a sum over positions may
come near zero in all channels of one draw. Rounding alone made 6e-2 of such a one.
"""
_FEW_DRAWS = 4
NAMES = "y", "dx0", "dx1", "dv", "dh", "dbias"
"""Results of `gated_causal_conv`."""
CORE_NAMES = "y", "dz", "dweight", "dbias", "dh", "dskip"
"""Results of `hyena_core`."""
TAPS = 3
"""Of the short convolutions, as the models have them."""


def run(kit: Kit) -> None:
    """Every shape and dtype, then the special cases."""
    with kit.case("triton") as case:
        case.record(version=_triton())
    if not case.facts.get("version"):
        return
    for shape in kit.form.shapes:
        for dtype in DTYPES:
            with kit.case("values and gradients", shape=shape, dtype=name_of(dtype)) as case, poisoned():
                _compare(case, kit, shape, dtype)
            with kit.case("with short convolutions", shape=shape, dtype=name_of(dtype)) as case, poisoned():
                _compare(case, kit, shape, dtype, core=True)
    for _, channels, length in kit.form.shapes:
        with kit.case("implicit filter", shape=(channels, length)) as case, poisoned():
            _compare_filter(case, kit, channels, length)
    with kit.case("gates of unlike strides", shape=kit.form.probed) as case, poisoned():
        _unlike_strides(case, kit)
    for dtype in (torch.float32, torch.bfloat16):
        with kit.case("causal order", shape=kit.form.probed, dtype=name_of(dtype)) as case:
            _causal(case, kit, dtype)
    with kit.case("more than 2^31 elements per gate", shape=kit.form.large) as case:
        _large(case, kit)
    with kit.case("side stream", shape=kit.form.probed) as case:
        needs_gpu(kit)
        _side_stream(case, kit)
    with kit.case("CUDA graph", shape=kit.form.probed) as case:
        needs_gpu(kit)
        _graph(case, kit)


def name_of(dtype: torch.dtype) -> str:
    """A dtype's name without its module."""
    return str(dtype).removeprefix("torch.")


def operands(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, seed: int = 0) -> list[Tensor]:
    """x0, x1, v as the model has them, three parts of one tensor; h decaying, float32; bias. All need gradients."""
    batch, channels, length = shape
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + length)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    streams = draw(batch, 3 * channels, length).to(dtype)
    decay = torch.exp(-torch.arange(length, device=device) * 4 / length)
    h, bias = draw(channels, length) * decay, draw(channels)
    return [x.detach().requires_grad_() for x in (*streams.chunk(3, dim=1), h, bias)]


def core_operands(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> list[Tensor]:
    """z, whose parts are the streams of `operands`; weight, bias, h and skip in float32. All need gradients."""
    x0, x1, v, h, skip = operands(shape, dtype, device, seed)
    generator = torch.Generator(device).manual_seed(seed)
    streams = 3 * shape[1]
    weight = torch.randn(streams, 1, TAPS, generator=generator, device=device) / TAPS**0.5
    bias = torch.randn(streams, generator=generator, device=device)
    return [x.detach().requires_grad_() for x in (torch.cat([x0, x1, v], dim=1), weight, bias, h, skip)]


def ours(*gates: Tensor) -> Tensor:
    """`gated_causal_conv` in Triton."""
    from genome_lm.kernels.triton import launch

    return launch.gated_causal_conv(*gates)


def our_core(*inputs: Tensor) -> Tensor:
    """`hyena_core` in Triton."""
    from genome_lm.kernels.triton import launch

    return launch.hyena_core(*inputs)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory holds NaN, so that a place that nothing is written to is noticed."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills what torch.empty gives with NaN
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        raise Skip("triton is not installed") from None
    return str(triton.__version__)


def results(inputs: list[Tensor], dy: Tensor, operation: Operation = ours) -> list[Tensor]:
    """The result of an operation and its five gradients."""
    y = operation(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


def errors(results: list[Tensor], expected: list[Tensor], names: Sequence[str]) -> dict[str, float]:
    """Largest error of each result, relative to the largest value expected; infinite where it is NaN."""
    relative = {}
    for name, got, want in zip(names, results, expected, strict=True):
        scale = want.abs().max().clamp(min=1e-30)
        value = float((got.double() - want).abs().max() / scale)
        relative[name] = value if value == value else float("inf")
    return relative


def _compare(case: Case, kit: Kit, shape: tuple[int, int, int], dtype: torch.dtype, core: bool = False) -> None:
    operation, plain = (our_core, reference.hyena_core) if core else (ours, reference.gated_causal_conv)
    computed, expected = [], []
    for seed in range(_FEW_DRAWS if shape[2] < _FEW else 1):
        inputs = (core_operands if core else operands)(shape, dtype, kit.device, seed)
        generator = torch.Generator(kit.device).manual_seed(seed)
        dy = torch.randn(shape, generator=generator, device=kit.device).to(dtype)
        computed.append(results(inputs, dy, operation))
        case.demand("the same bits again", all(map(torch.equal, computed[-1], results(inputs, dy, operation))))
        exact = [x.detach().double().requires_grad_() for x in inputs]
        expected.append(results(exact, dy.double(), plain))
    relative = errors(_stacked(computed), _stacked(expected), CORE_NAMES if core else NAMES)
    worst = max(relative, key=relative.__getitem__)
    case.record(errors={name: float(f"{value:.2e}") for name, value in relative.items()}, worst=worst)
    case.bounded("error", relative[worst], BOUNDS[dtype] * (3 if shape[2] < _FEW else 1))


def _stacked(draws: list[list[Tensor]]) -> list[Tensor]:
    """Each result of all draws as one tensor."""
    return [torch.stack(of_one_name) for of_one_name in zip(*draws, strict=True)]


def _compare_filter(case: Case, kit: Kit, channels: int, length: int) -> None:
    """A network as the models have it: filters and gradients of all weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(length)
        config = ModelConfig(d_model=channels, n_layer=1, max_length=length)
        long_filter = ImplicitFilter(config).to(kit.device)
    exact = copy.deepcopy(long_filter).double()
    dh = torch.randn(channels, length, device=kit.device)
    computed = _filter_results(long_filter, dh, "triton")
    case.demand("the same bits again", all(map(torch.equal, computed, _filter_results(long_filter, dh, "triton"))))
    names = ["h", *(name for name, _ in long_filter.named_parameters())]
    relative = errors(computed, _filter_results(exact, dh.double(), "reference"), names)
    worst = max(relative, key=relative.__getitem__)
    case.record(errors={name: float(f"{value:.2e}") for name, value in relative.items()}, worst=worst)
    case.bounded("error", relative[worst], FILTER_BOUND)


def _filter_results(long_filter: ImplicitFilter, dh: Tensor, backend: Backend) -> list[Tensor]:
    with forced_backend(backend):
        h = long_filter(dh.shape[1])
    return [h.detach(), *torch.autograd.grad(h, list(long_filter.parameters()), dh)]


def _unlike_strides(case: Case, kit: Kit) -> None:
    """Gates of different memory layouts, one of them with positions far apart."""
    inputs = operands(kit.form.probed, torch.float32, kit.device)
    turned = [x.detach().clone() for x in inputs]
    turned[0] = turned[0].mT.contiguous().mT
    turned[1] = torch.stack([turned[1], turned[1]], dim=-1)[..., 0]
    turned = [x.requires_grad_() for x in turned]
    dy = torch.randn(kit.form.probed, device=kit.device).mT.contiguous().mT
    for name, got, want in zip(NAMES, results(turned, dy), results(inputs, dy.contiguous()), strict=True):
        case.demand(f"{name} has the same bits", torch.equal(got, want))


def _causal(case: Case, kit: Kit, dtype: torch.dtype) -> None:
    """A change at one position leaves what comes before as it is, but for the rounding of the transforms."""
    inputs = [x.detach() for x in operands(kit.form.probed, dtype, kit.device)]
    at = kit.form.probed[2] // 2
    changed = [x.clone() for x in inputs]
    changed[2][..., at] += 10
    before, after = ours(*inputs).double(), ours(*changed).double()
    scale = after.abs().max()
    case.bounded("change before", float((after - before)[..., :at].abs().max() / scale), BOUNDS[dtype])
    case.demand("it changes what comes after", bool((after - before)[..., at:].abs().max() / scale > 0.01))


def _large(case: Case, kit: Kit) -> None:
    """The last sequence must come out as it does alone, though its offsets do not fit into 32 bits."""
    if kit.form.large is None:
        raise Skip("not in this form")
    batch, channels, length = kit.form.large
    needed = 2 * 2 * batch * channels * length
    if kit.on_gpu and torch.cuda.mem_get_info(kit.device)[0] < 2 * needed:
        raise Skip(f"needs {2 * needed / 1e9:.0f} GB of free memory")
    streams = torch.randn(batch, channels, length, device=kit.device, dtype=torch.bfloat16)
    h, bias = torch.randn(channels, length, device=kit.device) / 100, torch.randn(channels, device=kit.device)
    y = ours(streams, streams, streams, h, bias)[-1:]
    alone = ours(*[streams[-1:]] * 3, h, bias)
    case.bounded("difference", float((y - alone).abs().max() / alone.abs().max()), BOUNDS[torch.bfloat16])
    case.record(same_bits=torch.equal(y, alone))


def _side_stream(case: Case, kit: Kit) -> None:
    inputs = operands(kit.form.probed, torch.float32, kit.device)
    dy = torch.randn(kit.form.probed, device=kit.device)
    expected = results(inputs, dy)
    stream = torch.cuda.Stream(kit.device)
    stream.wait_stream(torch.cuda.current_stream(kit.device))
    with torch.cuda.stream(stream):
        computed = results(inputs, dy)
    torch.cuda.current_stream(kit.device).wait_stream(stream)
    case.demand("the same bits as on the main stream", all(map(torch.equal, computed, expected)))


def _graph(case: Case, kit: Kit) -> None:
    """A captured graph of forward and backward, replayed on two other inputs."""
    static = operands(kit.form.probed, torch.float32, kit.device)
    dy = torch.randn(kit.form.probed, device=kit.device)
    stream = torch.cuda.Stream(kit.device)
    stream.wait_stream(torch.cuda.current_stream(kit.device))
    with torch.cuda.stream(stream):  # compiles, and makes the tables
        results(static, dy)
    torch.cuda.current_stream(kit.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(static, dy)
    for seed in (1, 2):
        fresh = operands(kit.form.probed, torch.float32, kit.device, seed)
        with torch.no_grad():
            for place, values in zip(static, fresh, strict=True):
                place.copy_(values)
        graph.replay()
        kit.synchronize()
        eager = results(fresh, dy)
        case.demand(f"replay {seed} has the bits of the eager run", all(map(torch.equal, captured, eager)))
