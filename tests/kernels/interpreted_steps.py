"""The kernels of a token's step in Triton's interpreter. Run by test_triton.py with TRITON_INTERPRET=1."""

import numpy as np
import pytest
import torch

from genome_lm.config import ModelConfig
from genome_lm.inference.generation import generate
from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import graphs
from genome_lm.kernels.conv import online as online_conv
from genome_lm.kernels.triton import block_proof, step_proof, steps
from genome_lm.model import HyenaLM, stepping
from tests import replaying


@pytest.mark.parametrize("name", step_proof.CASES)
def test_kernels_equal_plain_operations(name: str) -> None:
    assert step_proof.error(name, torch.device("cpu")) < 2e-6


@pytest.mark.parametrize("gradients", [False, True])
def test_the_self_test_passes(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_proof, "LENGTHS", [70])
    monkeypatch.setattr(block_proof, "HALF_LENGTHS", [(1, 300), (64, 70)])
    with torch.autocast("cpu", torch.bfloat16):  # as when a training step is the first to ask
        assert block_proof.failure(torch.device("cpu"), gradients) == ""


def test_replayed_kernels_generate_what_a_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_conv, "DIRECT", 4)
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layer=2, max_length=60, filter_order=8, embed_dropout=0.0)
    model = HyenaLM(config).eval()
    for parameter in model.backbone.blocks.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    prompts = [np.full(length, 7 + length % 4, dtype=np.uint8) for length in (1, 6)]
    plain = generate(model, prompts, 9, 1, Sampling(top_p=0.9), 2)
    monkeypatch.setattr(stepping, "REPLAYED", {"cpu"})
    monkeypatch.setattr(stepping, "fused_steps", lambda x: steps)
    monkeypatch.setattr(graphs, "LEAST", 2)
    monkeypatch.setattr(graphs, "captured", replaying.record)
    monkeypatch.setattr(steps, "launch", replaying.whole(steps.launch))
    for one, other in zip(generate(model, prompts, 9, 1, Sampling(top_p=0.9), 2), plain, strict=True):
        assert one.sequence == other.sequence
        np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-4)
