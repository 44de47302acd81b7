"""Generation by CUDA graphs beside the same operations launched one by one: the same bases, and times of a token."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genome_lm.gpukit.expected import random_model
from genome_lm.gpukit.kit import Case, Kit, needs_gpu
from genome_lm.gpukit.timing import Spread, elapsed
from genome_lm.inference.generation import Generating
from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import Draws, forced_backend, without_graphs
from genome_lm.kernels.graphs import WARM
from genome_lm.model import HyenaLM
from genome_lm.model.stepping import Stepper

LAYOUTS = "hyena", "hyena-se,hyena-mr", "attention,attention-local", "attention-dilated,attention-recall"
SAMPLINGS = Sampling(top_p=0.9), Sampling(temperature=0.0)
_PROMPTS = 1, 40, 7
"""Bases of the prompts of a batch."""
_BOUND = 1e-3
"""Largest difference allowed of log-likelihoods, in nats, between two ways of computing them in float32."""


class _Way(NamedTuple):
    """How a token is computed: with the Triton kernels where they are used or in plain PyTorch, as a graph or not."""

    has_triton: bool
    has_graph: bool

    @contextmanager
    def forced(self) -> Iterator[None]:
        with ExitStack() as stack:
            if not self.has_triton:
                stack.enter_context(forced_backend("reference"))
            if not self.has_graph:
                stack.enter_context(without_graphs())
            yield


WAYS = {"one by one": _Way(False, False), "graph": _Way(False, True), "graph, Triton": _Way(True, True)}


def run(kit: Kit) -> None:
    """Bases of each operator, then times."""
    for layout in LAYOUTS:
        with kit.case("the same bases", layout=layout) as case:
            model = random_model(replace(kit.form.model, n_layer=2, layout=layout)).to(kit.device)
            for sampling in SAMPLINGS:
                _compare(case, kit, model, sampling)
    model = random_model(kit.form.steps[-1][0]).to(kit.device)
    facts = {"layers": model.config.n_layer, "channels": model.config.d_model}
    with kit.case("Triton kernels", **facts) as case:
        needs_gpu(kit)
        case.demand("they are used", Stepper(model, 2).operations.__name__.endswith("triton.steps"))
    for batch in kit.form.batches:
        with kit.case("a token", batch=batch, **facts) as case:
            _measure(case, kit, model, batch)


def _compare(case: Case, kit: Kit, model: HyenaLM, sampling: Sampling) -> None:
    """To the bit with a graph and without; to rounding with the Triton kernels and in plain PyTorch."""
    tokens, likelihoods = _generated(case, kit, model, sampling, _Way(True, True))
    again = _generated(case, kit, model, sampling, _Way(True, False))
    plain = _generated(case, kit, model, sampling, _Way(False, True))
    at = f"temperature {sampling.temperature:.0f}"
    case.demand(
        f"{at}: the same without a graph", torch.equal(tokens, again[0]) and torch.equal(likelihoods, again[1])
    )
    # Where rounding turns a draw, all that follows differs.
    same = (tokens == plain[0]).cumprod(0).bool()
    case.bounded(f"{at}: off", float((likelihoods - plain[1])[same].abs().max()), _BOUND)
    case.record(**{f"{at}: part of the bases before rounding turns one": round(float(same.float().mean()), 3)})


def _generated(case: Case, kit: Kit, model: HyenaLM, sampling: Sampling, way: _Way) -> tuple[Tensor, Tensor]:
    """Token ids and log-likelihoods of sequences, on the CPU."""
    with way.forced():
        generating, draws = _begin(kit, model, _PROMPTS, sampling)
        for _ in range(kit.form.generated - 1):
            generating.advance()
        generating.finish()
    if kit.on_gpu and way.has_graph:
        case.demand("captured", generating.is_captured)
    return draws.tokens.cpu(), draws.log_likelihoods.cpu()


def _measure(case: Case, kit: Kit, model: HyenaLM, batch: int) -> None:
    """Milliseconds of a token, of each way in turns."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(min(kit.form.rounds, 3)):
        for name, way in WAYS.items():
            with way.forced():
                times[name].append(_milliseconds(kit, model, batch))
    case.record(ms={name: Spread.of(spent) for name, spent in times.items()})


def _milliseconds(kit: Kit, model: HyenaLM, batch: int) -> float:
    """Of a token, once all is compiled and captured."""
    generating, _ = _begin(kit, model, (40,) * batch, SAMPLINGS[0])
    for _ in range(WARM + 1):
        generating.advance()
    kit.synchronize()
    count = kit.form.generated - 1 - (WARM + 1)

    def work() -> None:
        for _ in range(count):
            generating.advance()

    return elapsed(work, kit.device) / count


def _begin(kit: Kit, model: HyenaLM, lengths: tuple[int, ...], sampling: Sampling) -> tuple[Generating, Draws]:
    prompts = [np.random.default_rng(length).integers(7, 11, length).astype(np.uint8) for length in lengths]
    numbers = np.stack([sampling.draws(number, 0, kit.form.generated) for number in range(len(prompts))], axis=1)
    draws = sampling.prepared(torch.from_numpy(numbers).to(kit.device))
    return Generating(Stepper(model, kit.form.generated), prompts, range(len(prompts)), draws), draws
