"""Models that read both ways: what they see, padding, both strands, and what a causal reference says of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genome_lm.alphabet import MASK, PAD, TOKEN_COMPLEMENT
from genome_lm.checkpoint import load_checkpoint, save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.direction import BOTH, CAUSAL
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.mixers import MIXERS
from genome_lm.model.ways import Turn

SHAPE = ModelConfig(
    d_model=16, n_layer=2, max_length=60, filter_order=8, heads=2, attention_window=9, recall_keys=6, recall_taps=4,
    attention_segments=((32, 1), (64, 2)), mr_taps=12, embed_dropout=0.0, direction=BOTH, ngram_order=0,
)  # fmt: skip
COMPLEMENT = torch.from_numpy(TOKEN_COMPLEMENT).long()
FIELDS = [
    {}, {"reversed_weights": "own"}, {"strands": "equivariant"},
    {"combine": "gate", "reversed_weights": "own"}, {"combine": "projection", "strands": "equivariant"},
]  # fmt: skip
IDS = ["shared", "own", "equivariant", "gate", "projection"]


def model(**fields: object) -> HyenaLM:
    """In float64, with weights large enough that a change far away is felt."""
    torch.manual_seed(0)
    lm = HyenaLM(replace(SHAPE, **fields)).double().eval()
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return lm


def bases(*shape: int) -> Tensor:
    return torch.randint(7, 11, shape, generator=torch.Generator().manual_seed(1))


def reverse_complement(ids: Tensor) -> Tensor:
    return COMPLEMENT[ids].flip(1)


@pytest.mark.parametrize("fields", FIELDS, ids=IDS)
@pytest.mark.parametrize("layout", MIXERS)
def test_states_see_both_sides_and_no_padding(layout: str, fields: dict[str, str]) -> None:
    lm, ids = model(layout=layout, **fields), bases(2, 31)
    with torch.no_grad():
        states = lm.backbone(ids)
        assert states.shape == (2, 31, lm.config.state_width)
        changed = ids.clone()
        changed[:, 12] = COMPLEMENT[ids[:, 12]]
        changes = (lm.backbone(changed) - states).abs().amax(-1)
        assert min(changes[:, :12].max(), changes[:, 13:].max()) > 1e-6
        padded = torch.nn.functional.pad(ids[:1], (0, 11), value=PAD)
        longer = torch.cat([padded, bases(1, 42)])
        torch.testing.assert_close(lm.backbone(longer)[:1, :31], states[:1])
        torch.testing.assert_close(lm(longer)[:1, :31], lm(ids[:1]))


@pytest.mark.parametrize("combine", ["sum", "gate", "projection"])
@pytest.mark.parametrize("layout", MIXERS)
def test_both_strands_have_the_same_states_in_reverse(layout: str, combine: str) -> None:
    lm = model(layout=layout, strands="equivariant", ngram_order=3, combine=combine)
    ids = bases(2, 41)
    ids[0, 7], ids[1, 20] = MASK, 11
    with torch.no_grad():
        ahead, back = lm.backbone(ids), lm.backbone(reverse_complement(ids)).flip(1)
        torch.testing.assert_close(back.roll(16, dims=-1), ahead)
        torch.testing.assert_close(lm(reverse_complement(ids)).flip(1)[..., COMPLEMENT], lm(ids))
        single = lm.float()
        torch.testing.assert_close(
            single(reverse_complement(ids)).flip(1)[..., COMPLEMENT], single(ids), rtol=1e-5, atol=1e-5
        )


def test_a_block_adds_what_its_mixer_makes_of_the_sequence_and_of_its_reverse() -> None:
    lm, x = model(reversed_weights="own"), torch.randn(2, 23, 16, dtype=torch.float64)
    block = lm.backbone.blocks[0]
    with torch.no_grad():
        normed = block.norm1(x)
        mixed = x + block.mixer(normed) + block.reversed_mixer(normed.flip(1)).flip(1)  # type: ignore[misc]
        expected = mixed + block.mlp(block.norm2(mixed))
        torch.testing.assert_close(block(x, False, Turn(bases(2, 23))), expected)
        block.reversed_mixer = None
        mixed = x + block.mixer(normed) + block.mixer(normed.flip(1)).flip(1)
        torch.testing.assert_close(block(x, True, Turn(bases(2, 23))), mixed + block.mlp(block.norm2(mixed)))


@pytest.mark.parametrize("combine", ["gate", "projection"])
def test_a_block_combines_its_directions_as_configured(combine: str) -> None:
    lm, x, turn = model(combine=combine), torch.randn(2, 23, 16, dtype=torch.float64), Turn(bases(2, 23))
    block = lm.backbone.blocks[0]
    with torch.no_grad():
        normed = block.norm1(x)
        ahead, back = block.mixer(normed), block.mixer(normed.flip(1)).flip(1)
        assert block.combined is not None
        linear = torch.cat([ahead, back], dim=-1) @ block.combined.linear.weight.T + block.combined.linear.bias
        gate = 1 / (1 + (-linear).exp())
        mixed = x + (gate * ahead + (1 - gate) * back if combine == "gate" else ahead + back + linear)
        for inplace in (False, True):
            torch.testing.assert_close(block(x.clone(), inplace, turn), mixed + block.mlp(block.norm2(mixed)))


@pytest.mark.parametrize("fields", FIELDS, ids=IDS)
def test_gradients_are_those_of_plain_turns(fields: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = model(layout="hyena,attention", **fields), bases(2, 19)
    losses = [lm.loss(ids, ids)]
    monkeypatch.setattr(Turn, "__call__", lambda self, x: x.flatten(0, 1)[self._places].view_as(x))
    losses.append(lm.loss(ids, ids))
    lm.backbone.activation_checkpointing = True
    losses.append(lm.train().loss(ids, ids))
    parameters = [*lm.parameters()]
    first, *others = (torch.autograd.grad(loss, parameters) for loss in losses)
    for gradients in others:
        torch.testing.assert_close(gradients, first)


def test_turns_keep_what_stands_ahead_and_behind() -> None:
    ids = torch.tensor([[7, 8, 9, PAD], [7, 8, 9, 10], [PAD, PAD, PAD, PAD]])
    x = torch.arange(15.0).view(3, 5, 1)
    assert Turn(ids, 1)(x)[..., 0].tolist() == [[0, 3, 2, 1, 4], [5, 9, 8, 7, 6], [10, 11, 12, 13, 14]]


@pytest.mark.parametrize("fields", FIELDS, ids=IDS)
def test_every_layer_and_the_last(fields: dict[str, str]) -> None:
    lm, ids = model(**fields), bases(2, 17)
    with torch.no_grad():
        for layer, states in lm.backbone.every_layer(ids, [0, 1, 2, None]):
            torch.testing.assert_close(states, lm.backbone(ids, layer))
        torch.testing.assert_close(lm.backbone.normed(lm.backbone(ids, 2)), lm.backbone(ids))


def test_torch_compile() -> None:
    lm, ids = model(strands="equivariant", n_layer=1), bases(2, 21)
    torch.compiler.reset()
    compiled = torch.compile(lm.loss, backend="aot_eager", fullgraph=True)(ids, ids)
    torch.testing.assert_close(compiled, lm.loss(ids, ids))


def test_what_goes_with_both_directions() -> None:
    assert ModelConfig.from_dict({**SHAPE.to_dict()}) == SHAPE
    assert SHAPE.to_dict()["direction"] == "both"
    assert "direction" not in replace(SHAPE, direction=CAUSAL).to_dict()
    with pytest.raises(GenomeLMError, match="strands equivariant goes with direction both"):
        replace(SHAPE, direction=CAUSAL, strands="equivariant")
    with pytest.raises(GenomeLMError, match="reversed_weights own goes with direction both"):
        replace(SHAPE, direction=CAUSAL, reversed_weights="own")
    assert replace(SHAPE, combine="gate").to_dict()["combine"] == "gate"
    assert "combine" not in SHAPE.to_dict()
    with pytest.raises(GenomeLMError, match="combine gate goes with direction both"):
        replace(SHAPE, direction=CAUSAL, combine="gate")
    with pytest.raises(GenomeLMError, match=r"conditions \(moss\) go with direction causal: .*leave them out"):
        SHAPE.with_conditions(["moss"])
    with pytest.raises(GenomeLMError, match="direction is 'backwards', use causal, both"):
        ModelConfig.from_dict({"d_model": 8, "n_layer": 1, "max_length": 9, "direction": "backwards"})


def test_a_prompt_stands_ahead_of_both_strands() -> None:
    lm, ids, prompt = model(strands="equivariant"), bases(2, 17), torch.randn(3, 16, dtype=torch.float64)
    with torch.no_grad():
        ahead, back = lm.backbone(ids, prompt=prompt), lm.backbone(reverse_complement(ids), prompt=prompt)
    assert ahead.shape == (2, 20, 32)
    torch.testing.assert_close(back[:, 3:].flip(1).roll(16, dims=-1), ahead[:, 3:])


def test_a_checkpoint_holds_both_directions(tmp_path: Path) -> None:
    lm, ids = model(strands="equivariant", reversed_weights="own", combine="gate").float(), bases(2, 17)
    save_checkpoint(tmp_path / "model", lm)
    opened, _ = load_checkpoint(tmp_path / "model")
    assert opened.config == lm.config
    torch.testing.assert_close(opened.eval()(ids), lm(ids), rtol=0, atol=0)
