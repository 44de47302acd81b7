"""Results in float64 on a CPU that a GPU's are held against: made once, and read where they are wanted."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.direction import CAUSAL
from genome_lm.gpukit.forms import Form
from genome_lm.kernels import forced_backend
from genome_lm.model import HyenaLM

POSITIONS = 256
"""Positions of a sequence whose states are kept."""
_PROMPT = 60
_PROMPTS = 8
"""Prompts tried, of which those are kept whose greedy continuation is the clearest."""
_KEPT_PROMPTS = 2
_LEAST_LEAD = 1e-3
"""Of the likeliest base's logit over the next one's: float32 is off by some 1e-5."""


class OfLength(NamedTuple):
    """Results for one sequence of random bases.

    Attributes:
        ids: (1, L + 1) int64 token ids; position i predicts position i + 1.
        positions: (P,) int64 positions whose states are kept.
        states: (P, d_model) float64, after the final norm.
        log_likelihoods: (P,) float64, ln p of the token after each of these positions, in nats.
        loss: () float64, nats per base.
        gradients: Of the loss, float64, by the parameter's name.
    """

    ids: Tensor
    positions: Tensor
    states: Tensor
    log_likelihoods: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


class Expected(NamedTuple):
    """All that is expected of one model.

    Attributes:
        model: The model, float32, on the CPU, in eval mode.
        lengths: Results by length.
        prompts: (n, P) int64 token ids.
        continuations: (n, G) int64 token ids, the likeliest base each time.
    """

    model: HyenaLM
    lengths: dict[int, OfLength]
    prompts: Tensor
    continuations: Tensor


def random_model(config: ModelConfig) -> HyenaLM:
    """A model with weights as large as a trained one's: with those of the start, the mixers hardly matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HyenaLM(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def make_expected(form: Form) -> Expected:
    """Compute all in float64 on the CPU, by the plain reference."""
    exact = random_model(form.model).double()
    with forced_backend("reference"):
        lengths = {length: _of_length(exact, length) for length in form.lengths}
        return Expected(random_model(form.model), lengths, *_continuations(exact, form.generated))


def _of_length(exact: HyenaLM, length: int) -> OfLength:
    ids = _random_ids(length + 1, length)[None]
    positions = torch.linspace(0, length - 1, min(length, POSITIONS)).long()
    exact.zero_grad()
    loss = exact.loss(*CAUSAL.shifted(ids))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in exact.named_parameters() if p.grad is not None}
    with torch.no_grad():
        states = exact.backbone(CAUSAL.shifted(ids)[0])[0]
        logits = states @ exact.backbone.embedding.weight.T
        likelihoods = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return OfLength(ids, positions, states[positions], likelihoods[positions], loss.detach(), gradients)


def _random_ids(count: int, seed: int) -> Tensor:
    return torch.randint(7, 11, (count,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _continuations(exact: HyenaLM, generated: int) -> tuple[Tensor, Tensor]:
    """Greedy continuations whose every choice is far from a tie, so that rounding does not turn one."""
    prompts = torch.stack([_random_ids(_PROMPT, 100 + number) for number in range(_PROMPTS)])
    ids, lead = prompts, torch.full((_PROMPTS,), torch.inf, dtype=torch.float64)
    for _ in range(generated):
        best = exact(ids)[:, -1, 7:11].topk(2)
        lead = torch.minimum(lead, best.values[:, 0] - best.values[:, 1])
        ids = torch.cat([ids, best.indices[:, :1] + 7], dim=1)
    kept = lead.argsort(descending=True)[:_KEPT_PROMPTS]
    kept = kept[lead[kept] > _LEAST_LEAD]
    return prompts[kept], ids[kept, _PROMPT:]


def save_expected(path: Path, expected: Expected) -> None:
    """Write all to one safetensors file; gradients, the bulk of it, as float32."""
    tensors = {f"weights/{name}": tensor for name, tensor in expected.model.state_dict().items()}
    tensors |= {"prompts": expected.prompts, "continuations": expected.continuations}
    for length, results in expected.lengths.items():
        fields = results._asdict()
        tensors |= {f"{length}/gradients/{name}": g.float() for name, g in fields.pop("gradients").items()}
        tensors |= {f"{length}/{name}": tensor for name, tensor in fields.items()}
    config = json.dumps(expected.model.config.to_dict())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"config": config})


def load_expected(path: Path) -> Expected:
    """The inverse of `save_expected`."""
    with safe_open(path, "pt") as file:
        config = ModelConfig.from_dict(json.loads(file.metadata()["config"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    model = HyenaLM(config).eval()
    model.load_state_dict({name: tensors[f"weights/{name}"] for name in model.state_dict()})
    lengths = {}
    for length in sorted(int(name.split("/")[0]) for name in tensors if name.endswith("/ids")):
        start = f"{length}/gradients/"
        gradients = {name.removeprefix(start): t.double() for name, t in tensors.items() if name.startswith(start)}
        fields = {name: tensors[f"{length}/{name}"] for name in OfLength._fields if name != "gradients"}
        lengths[length] = OfLength(**fields, gradients=gradients)
    return Expected(model, lengths, tensors["prompts"], tensors["continuations"])
