"""A whole model against float64: states, likelihoods, loss and gradients, in each precision, and compiled."""

from itertools import product

import torch
from torch import Tensor

from genome_lm.direction import CAUSAL
from genome_lm.gpukit.expected import Expected, OfLength, load_expected, make_expected
from genome_lm.gpukit.kit import Case, Kit, needs_gpu
from genome_lm.kernels import Backend, forced_backend, outside_autocast
from genome_lm.kernels.dispatch import reason_against_triton
from genome_lm.model import HyenaLM

BOUNDS = {"float32": (1e-3, 5e-3, 1e-4), "bf16-mixed": (2.5e-2, 6e-2, 5e-3)}
"""Largest relative errors (Euclidean) of states and likelihoods, of a parameter's gradient, and of the loss.

On a CPU, bf16-mixed is off by 8e-3, 2e-2 and 6e-4. A wrong kernel is off by about 1.
"""
WIDTH = 128
"""Channels for which the bounds are. Rounding averages out over them, so that fewer have wider bounds."""


def run(kit: Kit) -> None:
    """Each length in each precision, then torch.compile."""
    expected = expectations(kit)
    model = expected.model.to(kit.device)
    with kit.case("choice of kernels") as case:
        needs_gpu(kit)
        reason = reason_against_triton(torch.empty(0, device=kit.device).device, training=True)
        case.record(reason=reason)
        case.demand("the Triton kernels work", not reason)
    backends: tuple[Backend, ...] = ("triton", "reference") if kit.on_gpu else ("reference",)
    for (length, want), precision, backend in product(expected.lengths.items(), BOUNDS, backends):
        with kit.case("states, loss and gradients", length=length, precision=precision, kernel=backend) as case:
            with forced_backend(backend):
                _compare(case, kit, model, want, precision)
    with kit.case("batches of one and of three", length=min(expected.lengths)) as case:
        ids = CAUSAL.shifted(expected.lengths[min(expected.lengths)].ids)[0].to(kit.device)
        with torch.no_grad():
            alone, among = model.backbone(ids), model.backbone(ids.expand(3, -1))
        case.bounded("difference", _relative(among[1:2], alone), 1e-4)
    with kit.case("torch.compile", length=min(expected.lengths)) as case:
        needs_gpu(kit)
        with forced_backend("triton"):
            _compiled(case, model, expected.lengths[min(expected.lengths)].ids.to(kit.device))


def expectations(kit: Kit) -> Expected:
    """The float64 results that were given, or else made now."""
    return load_expected(kit.expected) if kit.expected else make_expected(kit.form)


def _compare(case: Case, kit: Kit, model: HyenaLM, want: OfLength, precision: str) -> None:
    ids, positions = want.ids.to(kit.device), want.positions.to(kit.device)
    wider = max(1.0, (WIDTH / model.config.d_model) ** 0.5)
    states_bound, gradient_bound, loss_bound = (bound * wider for bound in BOUNDS[precision])
    half = torch.autocast(kit.device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed")
    with half, torch.no_grad():
        read, _ = CAUSAL.shifted(ids)
        states, logits = model.backbone(read)[0, positions], model(read)[0, positions]
    likelihoods = logits.float().log_softmax(-1).gather(1, ids[0, positions + 1, None])[:, 0]
    case.bounded("states", _relative(states, want.states), states_bound)
    case.bounded("log-likelihoods", _relative(likelihoods, want.log_likelihoods), states_bound)
    case.demand("logits are float32", logits.dtype == torch.float32)
    model.zero_grad()
    with half:
        loss = model.loss(*CAUSAL.shifted(ids))
        with outside_autocast(loss):
            loss.backward()
    case.bounded("loss", _relative(loss.detach(), want.loss), loss_bound)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    relative = {name: _relative(gradients[name], gradient) for name, gradient in want.gradients.items()}
    worst = max(relative, key=relative.__getitem__)
    case.record(worst=worst, gradients={name: float(f"{value:.2e}") for name, value in relative.items()})
    case.bounded("gradient", relative[worst], gradient_bound)


def _relative(computed: Tensor, want: Tensor) -> float:
    """Euclidean norm of the difference over that of what is wanted."""
    return float((computed.cpu().double() - want.cpu()).norm() / want.cpu().double().norm().clamp(min=1e-30))


def _compiled(case: Case, model: HyenaLM, ids: Tensor) -> None:
    parameters = list(model.parameters())
    eager = model.loss(*CAUSAL.shifted(ids))
    expected = torch.autograd.grad(eager, parameters)
    compiled = torch.compile(model.loss)(*CAUSAL.shifted(ids))
    case.bounded("loss", _relative(compiled.detach(), eager.detach()), 1e-3)
    gradients = torch.autograd.grad(compiled, parameters)
    case.bounded("gradient", max(map(_relative, gradients, expected)), 5e-3)
