"""What these kernels use of PyTorch that has no public name, in one place, as any release may change it.

Each is compared with plain PyTorch at its first use. Where it is gone or gives something else, its plain form takes
its place. `plain_forms` names those, for `genome-lm doctor`.
"""

import ctypes
import functools
import math
import platform
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_failures: dict[str, str] = {}
WITH_MEMORY = Tensor, torch.nn.Parameter
_MAY_TRANSFORM = sys.platform == "linux" and platform.machine() == "x86_64" and torch.backends.mkl.is_available()


def plain_forms() -> dict[str, str]:
    """What was tried in this process and did not work, with the reasons; plain forms take its place."""
    return dict(_failures)


def _tried_once(test: Callable[[], None]) -> Callable[[], bool]:
    """Whether a test passes: it runs at the first call, on a thread without the caller's modes and settings."""

    @functools.cache
    def works() -> bool:
        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(test).result()
        except Exception as error:  # whatever a changed function may raise
            reason = str(error).strip().partition("\n")[0]
            _failures[test.__name__.strip("_")] = f"{type(error).__name__}: {reason}"
            return False
        return True

    return works


def _waves(*shape: int, pace: float) -> Tensor:
    """Values of a test. Random ones would change what a seeded run draws next."""
    count = torch.arange(math.prod(shape), dtype=torch.float32, device="cpu")
    return count.square().mul(pace).sin().view(shape)


def _check_close(
    computed: Tensor | tuple[Tensor, ...],
    expected: Tensor | tuple[Tensor, ...],
    rtol: float = 1.3e-6,
    atol: float = 1e-5,
) -> None:
    """`torch.testing.assert_close`, which would import torch's distributed tensors, a tenth of a second."""
    ones, others = ([value] if isinstance(value, Tensor) else value for value in (computed, expected))
    for one, other in zip(ones, others, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise AssertionError(f"{one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}")
        if not torch.allclose(one, other, rtol, atol):
            raise AssertionError(f"values are off by up to {(one - other).abs().max():.3g}")


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, then: Literal["none", "gelu"] = "none") -> Tensor:
    """x @ weightᵀ + bias by oneDNN, and its GELU in the tanh form; float32, or as in `has_fused_bfloat16`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "tanh" if then == "gelu" else "")


def fused_add_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Residual + x @ weightᵀ + bias by oneDNN, float32; see `has_fused_linear`."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


@_tried_once
def has_fused_linear() -> None:
    """Whether `fused_linear` and `fused_add_linear` can be used."""
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this build of PyTorch has no oneDNN")
    x, bias, residual = _waves(9, 20, pace=0.1), _waves(17, pace=0.2), _waves(9, 17, pace=0.3)
    for weight in (_waves(17, 20, pace=0.4), _waves(20, 17, pace=0.5).T):
        expected = F.linear(x, weight, bias)
        _check_close(fused_linear(x, weight, None), F.linear(x, weight))
        _check_close(fused_linear(x, weight, bias), expected)
        _check_close(fused_linear(x, weight, bias, "gelu"), F.gelu(expected, approximate="tanh"))
        _check_close(fused_add_linear(residual, x, weight, bias), residual + expected)


@_tried_once
def has_fused_bfloat16() -> None:
    """Whether `fused_linear` takes x and the weight in bfloat16, and the bias in float32: (N, M) bfloat16."""
    if not has_fused_linear():
        raise RuntimeError("this build of PyTorch has no oneDNN")
    x, weight, bias = _waves(9, 20, pace=0.1).bfloat16(), _waves(17, 20, pace=0.2).bfloat16(), _waves(17, pace=0.3)
    expected = F.linear(x.float(), weight.float(), bias)
    near = partial(_check_close, rtol=0.01, atol=0.01)
    near(fused_linear(x, weight, bias).float(), expected)
    near(fused_linear(x, weight, None).float(), expected - bias)
    active = F.gelu(expected, approximate="tanh")
    near(fused_linear(x, weight, bias, "gelu").float(), active)


def bfloat16_product(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> None:
    """Write a @ b to `out`, or add it to what is there.

    Sums are float32, and not rounded where MKL computes (`has_bfloat16_sums`). Elsewhere the product is rounded to
    bfloat16 before it is written or added.

    Args:
        a: (M, K) bfloat16; this and b are dense along one of their dimensions.
        b: (K, N) bfloat16.
        out: (M, N) float32, dense along its rows.
        add: Whether to add.
    """
    if has_memory(a) and has_bfloat16_sums():
        _mkl_product(a, b, out, add)
    elif add:
        out.add_(a @ b)
    else:
        out.copy_(a @ b)


def _mkl_product(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    (order_a, step_a), (order_b, step_b) = _layout(a), _layout(b)
    (m, k), n = a.shape, b.shape[1]
    _mkl_gemm()(
        _ROW_MAJOR, order_a, order_b, m, n, k, 1.0, a.data_ptr(), step_a, b.data_ptr(), step_b, float(add),
        out.data_ptr(), max(out.stride(0), n),
    )  # fmt: skip


_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112
"""Layouts in the numbers of CBLAS."""


def _layout(matrix: Tensor) -> tuple[int, int]:
    """How CBLAS is given a matrix: the layout, and the distance between its dense rows or columns."""
    rows, columns = matrix.shape
    if matrix.stride(1) == 1 or columns == 1:
        return _AS_IT_IS, max(matrix.stride(0), columns)
    assert matrix.stride(0) == 1 or rows == 1, f"no dimension of a matrix with strides {matrix.stride()} is dense"
    return _TRANSPOSED, max(matrix.stride(1), rows)


@functools.cache
def _mkl_gemm() -> Callable[..., None]:
    gemm = _library().cblas_gemm_bf16bf16f32
    matrix = ctypes.c_void_p, ctypes.c_int64
    sizes = [ctypes.c_int64] * 3
    gemm.argtypes = [*[ctypes.c_int] * 3, *sizes, ctypes.c_float, *matrix, *matrix, ctypes.c_float, *matrix]
    gemm.restype = None
    return gemm


def bfloat16_gemm() -> int | None:
    """Address of MKL's `cblas_gemm_bf16bf16f32` for functions in C; None without `has_bfloat16_sums`."""
    return _address("cblas_gemm_bf16bf16f32") if has_bfloat16_sums() else None


def float_gemm() -> int | None:
    """Address of MKL's `sgemm_`, Fortran's product, for functions in C; None if it can't be used."""
    return _address("sgemm_") if _has_float_gemm() else None


@functools.cache
def _address(name: str) -> int | None:
    return ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value


@_tried_once
def _has_float_gemm() -> None:
    if not torch.backends.mkl.is_available():
        raise RuntimeError("this build of PyTorch has no MKL")
    a, b, out = _waves(5, 9, pace=0.1), _waves(7, 9, pace=0.2), torch.zeros(5, 7)
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in (b, a, out)]
    one, zero = ctypes.byref(ctypes.c_float(1)), ctypes.byref(ctypes.c_float(0))
    m, n, k = (ctypes.byref(ctypes.c_int(size)) for size in (7, 5, 9))
    _library().sgemm_(b"T", b"N", m, n, k, one, pointers[0], k, pointers[1], k, zero, pointers[2], m)
    _check_close(out, a @ b.T)


@_tried_once
def has_bfloat16_sums() -> None:
    """Whether MKL computes `bfloat16_product`: with AMX alone, since on other makers' processors MKL may be slow."""
    if not torch.backends.mkl.is_available():
        raise RuntimeError("this build of PyTorch has no MKL")
    if not torch.cpu.get_capabilities().get("amx_bf16"):
        raise RuntimeError("this CPU has no amx_bf16")
    a, b = _waves(9, 20, pace=0.1).bfloat16(), _waves(20, 17, pace=0.2).bfloat16()
    for left in (a, a.T.contiguous().T):
        for right in (b, b.T.contiguous().T):
            out = torch.empty(9, 24)[:, :17]
            for count in (1, 2):
                _mkl_product(left, right, out, add=count > 1)
                _check_close(out, count * (a.float() @ b.float()))


def packed_int8(weight: Tensor) -> Tensor:
    """A weight (M, K) int8 for `int8_linear`."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def int8_linear(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """(x @ weightᵀ) · scales by oneDNN: x (N, K) int8, a `packed_int8` weight, scales (M,) → (N, M) float32."""
    zeros = torch.zeros(len(scales), dtype=torch.long)
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@_tried_once
def has_int8_linear() -> None:
    """Whether `packed_int8`, `int8_linear` and `torch._int_mm` can be used."""
    x, weight = (_waves(*shape, pace=0.1).mul(127).round().to(torch.int8) for shape in ((9, 20), (17, 20)))
    scales = _waves(17, pace=0.3).abs()
    expected = F.linear(x.float(), weight.float()) * scales
    _check_close(int8_linear(x, packed_int8(weight), scales), expected)
    rows = torch.zeros(32, 20, dtype=torch.int8)
    rows[:9] = x
    _check_close(torch._int_mm(weight, rows.T)[:, :9].float(), F.linear(weight.float(), x.float()))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm of x (N, D), with the means and inverse deviations, (N, 1), for `layer_norm_backward`."""
    if _layer_norm():
        return torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    return _plain_layer_norm(x, weight, bias, eps)


def layer_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `layer_norm` with respect to x, weight and bias; `grad` (N, D) is that of the result."""
    if _layer_norm():
        backward = torch.ops.aten.native_layer_norm_backward
        return backward(grad, x, x.shape[-1:], mean, rstd, weight, bias, [True] * 3)
    return _plain_layer_norm_backward(grad, x, mean, rstd, weight)


def _plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps), mean, variance.add_(eps).rsqrt_()


def _plain_layer_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    normed, weighted = (x - mean) * rstd, grad * weight
    along = (weighted * normed).mean(-1, keepdim=True)
    grad_x = (weighted - weighted.mean(-1, keepdim=True) - normed * along) * rstd
    return grad_x, (grad * normed).sum(0), grad.sum(0)


@_tried_once
def _layer_norm() -> None:
    x, grad, weight, bias = _waves(6, 9, pace=0.1), _waves(6, 9, pace=0.2), _waves(9, pace=0.3), _waves(9, pace=0.4)
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, 1e-5)
    _check_close((normed, mean, rstd), _plain_layer_norm(x, weight, bias, 1e-5))
    backward = torch.ops.aten.native_layer_norm_backward
    gradients = backward(grad, x, x.shape[-1:], mean, rstd, weight, bias, [True] * 3)
    _check_close(tuple(gradients), _plain_layer_norm_backward(grad, x, mean, rstd, weight))


def flash_attention(operands: Sequence[Tensor], causal: bool, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention without gradients, and the logarithm of its denominators; see `has_flash_attention`.

    Args:
        operands: q (B, H, n, C); k and v, (B, H, S, C).
        causal: Whether query i sees the keys up to i only.
        bias: (n, S) to add to the scores, instead.

    Returns:
        (B, H, n, C) and (B, H, n).
    """
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return forward(*operands, 0.0, causal, attn_mask=bias)


def flash_attention_backward(
    operands: Sequence[Tensor], causal: bool, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `flash_attention` with respect to q, k and v.

    Args:
        operands: The gradient of the result; q, k and v; the result and the logarithms. Where these two are those of
            more keys than k, it gives what the keys of k add to the gradients.
        causal: As given to `flash_attention`.
        bias: As given to `flash_attention`.
    """
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(*operands, 0.0, causal, attn_mask=bias)


@_tried_once
def has_flash_attention() -> None:
    """Whether `flash_attention` and `flash_attention_backward` can be used."""
    q, k, v, grad = (_waves(1, 2, 5, 8, pace=pace).requires_grad_() for pace in (0.1, 0.2, 0.3, 0.4))
    seen = torch.ones(5, 5).tril().log()
    scores = q @ k.mT * 8**-0.5 + seen
    expected = scores.softmax(-1) @ v
    # Given as the gradient of `expected`, `grad` would have PyTorch import sympy.
    gradients = torch.autograd.grad((expected * grad).sum(), (q, k, v))
    with torch.no_grad():
        for causal, bias in ((True, None), (False, seen)):
            y, log_sum = flash_attention((q, k, v), causal, bias)
            _check_close((y, log_sum), (expected, scores.logsumexp(-1)))
            computed = flash_attention_backward((grad, q, k, v, y, log_sum), causal, bias)
            _check_close(computed, gradients)


def changes(tensor: Tensor) -> int | None:
    """How often a tensor's memory was written to in place, so that what was computed from it can be kept.

    Returns:
        The count, which views share; None where it is not counted, as in tensors of inference mode. What was
        computed is not to be kept then.
    """
    return tensor._version if _changes() and not tensor.is_inference() else None


@_tried_once
def _changes() -> None:
    tensor = torch.zeros(2, device="cpu")
    before = tensor._version
    with torch.no_grad():
        tensor.detach()[:1].add_(1)
    if tensor._version <= before:
        raise RuntimeError("Tensor._version stays when a view is written to")


def has_memory(given: Tensor) -> bool:
    """Whether it is on the CPU and no subclass, which may hold no values: a `FakeTensor` tells shapes alone."""
    return given.is_cpu and type(given) in WITH_MEMORY


def is_watched() -> bool:
    """Whether a mode watches the operations of the calling thread; true where that can't be told."""
    return not _watching() or torch._C._len_torch_dispatch_stack() > 0


def is_transformed() -> bool:
    """Whether torch.func transforms what the calling thread does: its tensors then hold no values of their own."""
    return torch._C._are_functorch_transforms_active()


def takes_functions() -> bool:
    """Whether to call autograd functions of our own: torch.compile sees into none, torch.func refuses them."""
    return not (torch.compiler.is_compiling() or is_transformed())


class _Watching(TorchDispatchMode):
    pass


@_tried_once
def _watching() -> None:
    counts = [torch._C._len_torch_dispatch_stack()]
    with _Watching():
        counts.append(torch._C._len_torch_dispatch_stack())
    if counts != [0, 1]:
        raise RuntimeError(f"torch._C._len_torch_dispatch_stack gives {counts} without and with one mode")


class ThreadSetters:
    """OpenMP's and MKL's own functions, which set the number of threads for the calling thread alone.

    Attributes:
        openmp: Takes the number.
        mkl: Takes the number, and gives the one before; 0 stands for none of its own.
        has_mkl: Whether there is MKL; else `mkl` does nothing.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.openmp: Callable[[int], None] = library.omp_set_num_threads
        self.has_mkl = torch.backends.mkl.is_available()
        self.mkl: Callable[[int], int] = library.MKL_Set_Num_Threads_Local if self.has_mkl else lambda _: 0


def thread_setters() -> ThreadSetters | None:
    """None where PyTorch's libraries do not show these functions (on Windows), or they don't reach PyTorch."""
    return _setters() if _thread_setters() else None


@functools.cache
def _setters() -> ThreadSetters:
    return ThreadSetters(_library())


@functools.cache
def _library() -> ctypes.CDLL:
    """PyTorch's own library, which has those that it computes with inside."""
    name = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib"}[sys.platform]
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))


@_tried_once
def _thread_setters() -> None:
    setters, count = _setters(), torch.get_num_threads() + 1
    of_mkl = setters.mkl(count)
    setters.openmp(count)
    if torch.get_num_threads() != count:
        raise RuntimeError("omp_set_num_threads does not reach PyTorch")
    if torch.backends.mkl.is_available() and setters.mkl(of_mkl) != count:
        raise RuntimeError("MKL_Set_Num_Threads_Local does not keep the number")


class RealTransform:
    """A Fourier transform of rows of real numbers by MKL on one thread, with its tables of sines kept.

    `torch.fft` makes the tables anew at each call, which takes as long as some transforms of a row. Threads may use
    one at the same time. See `has_real_transforms`.

    Args:
        points: Real values of a row.
        rows: Rows of a call, each at a distance of points + 2 floats, which hold points / 2 + 1 complex values too.
        inverse: Whether it goes from frequencies to values, which are divided by `points`.

    Attributes:
        handle: MKL's own, for `function`.
        function: Address of what transforms rows at an address, for functions in C.
    """

    _SINGLE, _REAL, _COMPLEX_COMPLEX = 35, 33, 39
    _STORAGE, _TRANSFORMS, _IN_DISTANCE, _OUT_DISTANCE, _THREADS, _SCALE = 10, 7, 14, 15, 27, 5

    def __init__(self, points: int, rows: int, inverse: bool) -> None:
        self.handle, library = ctypes.c_void_p(), _library()
        self._compute = library.DftiComputeBackward if inverse else library.DftiComputeForward
        self.function = ctypes.cast(self._compute, ctypes.c_void_p)
        self._free = library.DftiFreeDescriptor
        distances = ctypes.c_long(points + 2), ctypes.c_long(points // 2 + 1)
        settings: list[tuple[int, object]] = [
            (self._STORAGE, ctypes.c_int(self._COMPLEX_COMPLEX)),
            (self._TRANSFORMS, ctypes.c_long(rows)),
            (self._IN_DISTANCE, distances[inverse]),
            (self._OUT_DISTANCE, distances[not inverse]),
            (self._THREADS, ctypes.c_long(1)),
        ]
        if inverse:
            settings.append((self._SCALE, ctypes.c_double(1 / points)))
        create = library.DftiCreateDescriptor_s_1d
        _no_error(create(ctypes.byref(self.handle), self._REAL, ctypes.c_long(points)))
        for setting in settings:
            _no_error(library.DftiSetValue(self.handle, *setting))
        _no_error(library.DftiCommitDescriptor(self.handle))

    def __call__(self, values: Tensor) -> None:
        """Transform float32 rows in place, contiguous."""
        _no_error(self._compute(self.handle, ctypes.c_void_p(values.data_ptr())))

    def __del__(self) -> None:
        if self.handle:
            self._free(ctypes.byref(self.handle))


def _no_error(status: int) -> None:
    if status:
        raise RuntimeError(f"MKL's transforms give status {status}")


def has_real_transforms() -> bool:
    """Whether `RealTransform` can be used: on Linux on x86-64, with MKL. Other libraries keep their tables."""
    return _MAY_TRANSFORM and _real_transforms()


@_tried_once
def _real_transforms() -> None:
    for points, rows in ((16, 3), (30, 1), (2_048, 2)):
        values = _waves(rows, points + 2, pace=0.1)
        signals = values[:, :points].clone()
        RealTransform(points, rows, inverse=False)(values)
        _check_close(torch.view_as_complex(values.unflatten(1, (-1, 2))), torch.fft.rfft(signals))
        RealTransform(points, rows, inverse=True)(values)
        _check_close(values[:, :points], signals)


class ComplexTransform:
    """A Fourier transform of rows of complex numbers by MKL on one thread, in place, for functions in C.

    Both ways are without a factor. Threads may use one at the same time. See `has_complex_transforms`.

    Args:
        points: Complex values of a row; rows follow each other.
        rows: Rows of a call.

    Attributes:
        forward: Address of the C function of the transform, which takes `handle` and the address of the values.
        backward: That of its inverse.
        handle: What they take.
    """

    _SINGLE_COMPLEX = 32
    _TRANSFORMS, _IN_DISTANCE, _OUT_DISTANCE, _THREADS = 7, 14, 15, 27

    def __init__(self, points: int, rows: int) -> None:
        self.handle, library = ctypes.c_void_p(), _library()
        self.forward = ctypes.cast(library.DftiComputeForward, ctypes.c_void_p)
        self.backward = ctypes.cast(library.DftiComputeBackward, ctypes.c_void_p)
        self._free = library.DftiFreeDescriptor
        create, distance = library.DftiCreateDescriptor_s_1d, ctypes.c_long(points)
        _no_error(create(ctypes.byref(self.handle), self._SINGLE_COMPLEX, ctypes.c_long(points)))
        for setting in (
            (self._TRANSFORMS, ctypes.c_long(rows)),
            (self._IN_DISTANCE, distance),
            (self._OUT_DISTANCE, distance),
            (self._THREADS, ctypes.c_long(1)),
        ):
            _no_error(library.DftiSetValue(self.handle, *setting))
        _no_error(library.DftiCommitDescriptor(self.handle))

    def __del__(self) -> None:
        if self.handle:
            self._free(ctypes.byref(self.handle))


def has_complex_transforms() -> bool:
    """Whether `ComplexTransform` can be used, as `has_real_transforms`."""
    return has_real_transforms() and _complex_transforms()


@_tried_once
def _complex_transforms() -> None:
    compute = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    for points, rows in ((16, 3), (48, 1), (2_000, 2)):
        values = torch.view_as_complex(_waves(rows, points, 2, pace=0.1))
        signals = values.clone()
        transform = ComplexTransform(points, rows)
        for address, expected in (
            (transform.forward, torch.fft.fft(signals)),
            (transform.backward, signals * points),
        ):
            _no_error(compute(address.value or 0)(transform.handle, values.data_ptr()))
            scale = expected.abs().max()
            _check_close(torch.view_as_real(values) / scale, torch.view_as_real(expected) / scale)


def openmp_library() -> str | None:
    """The file of the OpenMP library that PyTorch runs on; other packages may have loaded one of their own."""
    try:
        files = re.findall(r"/.*/lib[gi]?omp[^/]*\.so.*", Path("/proc/self/maps").read_text(encoding="utf-8"))
    except OSError:
        return None
    of_torch = str(Path(torch.__file__).parent)
    return min(files, key=lambda path: not path.startswith(of_torch), default=None)
