"""Attention of all patterns: against its definition by masks, token by token, and with shared beginnings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.attention import dilated, flex, nearest, patterns, reference, softmax
from genome_lm.kernels.attention.dilated import dilated_attention, plain_dilated_attention
from genome_lm.kernels.attention.nearest import nearest_attention, plain_nearest_attention
from genome_lm.kernels.attention.patterns import full_attention, local_attention, plain_local_attention
from genome_lm.kernels.attention.rotary import rotate_, rotated, rotations
from genome_lm.kernels.attention.softmax import attend, plain_attend
from genome_lm.kernels.cpu import mlp, torch_private
from genome_lm.kernels.cpu.partition import POSITIONS
from genome_lm.kernels.cpu.streams import rotary_split
from genome_lm.kernels.cpu.workers import rows_of_piece
from genome_lm.model import HyenaLM, memory
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.memory import forward_bytes, training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import MIXERS, attention_memory
from genome_lm.model.recompute import (
    alternative_states,
    plain_alternative_states,
    plain_reference_states,
    reference_states,
)
from genome_lm.model.stepping import Stepper
from tests.model.test_cuda_memory import Memory, peak

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
SEGMENTS = (16, 1), (64, 4), (128, 8)
LAYOUTS = [*(name for name in MIXERS if name.startswith("attention")), "attention,hyena,attention-local"]


def heads(queries: int, keys: int) -> list[Tensor]:
    """q, k and v of two sequences and three heads."""
    torch.manual_seed(queries + keys)
    return [torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (queries, keys, keys)]


def equal(y: Tensor, expected: Tensor, operands: list[Tensor], backward: bool = True) -> None:
    torch.testing.assert_close(y, expected)
    if backward:
        grad = torch.randn_like(y)
        gradients = (torch.autograd.grad(out, operands, grad, retain_graph=True) for out in (y, expected))
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("window", [1, 33, 100, 300, 500])
@pytest.mark.parametrize(("queries", "keys"), [(301, 301), (97, 97), (37, 301), (200, 301), (1, 301)])
def test_local_attention_is_its_mask(queries: int, keys: int, window: int) -> None:
    operands, positions = heads(queries, keys), torch.arange(keys)
    counts = reference.local_counts(positions[-queries:], positions, window)
    expected = reference.attention(*operands, counts)
    equal(local_attention(*operands, window), expected, operands)
    if queries == keys:
        equal(plain_local_attention(*operands, window), expected, operands)


@pytest.mark.parametrize("window", [1, 20, 150])
@pytest.mark.parametrize("count", [0, 1, 7, 40, 300])
@pytest.mark.parametrize(("queries", "keys"), [(131, 131), (37, 131), (1, 30)])
def test_nearest_attention_is_its_mask(
    queries: int, keys: int, count: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BLOCK_SCORES", 50 * 6 * keys)
    operands, positions = heads(queries, keys), torch.arange(keys)
    recent = reference.recency(positions[-queries:], positions, window)
    counts = reference.nearest_counts(*operands[:2], recent, count)
    more = counts.sum(-1) - (recent > 0).sum(-1).clamp(max=window + (count or keys))
    assert more.min() == 0
    assert more.double().mean() < 0.2  # ties
    expected = reference.attention(*operands, counts)
    equal(nearest_attention(*operands, window, count), expected, operands)
    equal(plain_nearest_attention(*operands, window, count), expected, operands)
    with torch.no_grad():
        equal(nearest_attention(*operands, window, count), expected, operands, backward=False)


def test_nearest_keys_by_hand() -> None:
    """One channel; the products are the keys. Of those before the window of two, 5 is the largest; a tie counts."""
    q, k = torch.ones(1, 1, 6, 1), torch.tensor([1.0, 5, 3, 5, 9, 2]).view(1, 1, 6, 1)
    positions = torch.arange(6)
    counts = reference.nearest_counts(q, k, reference.recency(positions, positions, 2), count=1)
    assert counts[0, 0].nonzero().tolist() == [
        [0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 1], [3, 2], [3, 3],
        [4, 1], [4, 3], [4, 4], [5, 1], [5, 3], [5, 4], [5, 5],
    ]  # fmt: skip


@pytest.mark.parametrize(("queries", "keys"), [(129, 129), (37, 130), (1, 30)])
def test_full_attention_is_its_mask(queries: int, keys: int) -> None:
    operands, positions = heads(queries, keys), torch.arange(keys)
    expected = reference.attention(*operands, reference.causal_counts(positions[-queries:], positions))
    equal(full_attention(*operands), expected, operands, backward=queries == keys)


@pytest.mark.parametrize("window", [0, 1, 33])
@pytest.mark.parametrize("length", [1, 130])
def test_flex_attention_is_its_mask(length: int, window: int) -> None:
    operands, positions = [x.detach() for x in heads(length, length)], torch.arange(length)
    counts = reference.local_counts(positions, positions, window or length)
    y, log_sum = flex.plain_flex_attention(*operands, window)
    torch.testing.assert_close(y, reference.attention(*operands, counts))
    scores = reference.scores(*operands[:2]).masked_fill(~counts, -torch.inf)
    torch.testing.assert_close(log_sum.double(), scores.logsumexp(-1))


@pytest.mark.parametrize("layout", ["attention-local", "attention-dilated"])
def test_models_run_with_flex_attention(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ids = model(layout), bases(2, 77)
    with torch.no_grad():
        expected = lm(ids)
        for module in (patterns, dilated):
            monkeypatch.setattr(module, "runs_flex", lambda q: True)
            monkeypatch.setattr(module, "flex_attention", flex.plain_flex_attention)
        torch.testing.assert_close(lm(ids), expected)


def test_flex_attention_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attempt(operation: Callable[..., object]) -> str:
        monkeypatch.setattr(flex, "flex_attention", operation)
        flex.reason_against_flex.cache_clear()
        reason = flex.reason_against_flex(torch.device("cpu"))
        flex.reason_against_flex.cache_clear()
        return reason

    def right(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, None]:
        return patterns.plain_local_attention(q, k, v, window), None

    assert not attempt(right)
    assert attempt(lambda q, k, v, window: right(q, k, v, window + 1)).startswith("off by ")
    assert "FlexAttention does not support backward" in attempt(flex.plain_flex_attention)
    assert "attention runs in plain PyTorch, without FlexAttention: NotImplementedError" in caplog.text


@pytest.mark.parametrize("segments", [SEGMENTS, ((256, 1), (256, 2)), ((5, 1), (21, 3))], ids=str)
@pytest.mark.parametrize(("queries", "keys"), [(301, 301), (3, 3), (37, 301), (1, 65), (128, 256)])
def test_dilated_attention_is_its_mask(queries: int, keys: int, segments: reference.Segments) -> None:
    operands, positions = heads(queries, keys), torch.arange(keys)
    counts = reference.dilated_counts(positions[-queries:], positions, segments, heads=3)
    expected = reference.attention(*operands, counts)
    equal(plain_dilated_attention(*operands, segments), expected, operands)
    equal(dilated_attention(*operands, segments), expected, operands, backward=queries == keys)


def test_dilated_attention_needs_no_keys_before_its_segments() -> None:
    q, k, v = heads(20, 300)
    whole = dilated_attention(q, k, v, SEGMENTS)
    torch.testing.assert_close(dilated_attention(q, k[:, :, 256:], v[:, :, 256:], SEGMENTS, begin=256), whole)


def test_a_dilated_pattern_by_hand() -> None:
    """Two heads; segments of four with dilation 2: head 1 takes positions 1, 3, 5 and 7."""
    counts = reference.dilated_counts(torch.arange(8), torch.arange(8), ((2, 1), (4, 2)), heads=2)
    assert counts[1].nonzero().tolist() == [
        [0, 0], [1, 0], [1, 1], [2, 2], [3, 1], [3, 2], [3, 3],
        [4, 4], [5, 4], [5, 5], [6, 6], [7, 5], [7, 6], [7, 7],
    ]  # fmt: skip
    assert counts[1, 3].tolist() == [0, 1, 1, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("causal", [True, False])
def test_denominators(causal: bool) -> None:
    assert not {"has_flash_attention"} & torch_private.plain_forms().keys()
    operands = heads(30, 30)
    for result, expected in zip(attend(*operands, causal), plain_attend(*operands, causal), strict=True):
        torch.testing.assert_close(result, expected)


def projections(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_rotary_products_see_distances_alone() -> None:
    z, positions = projections(1, 64), torch.arange(64)
    turned = [rotate_(z.clone(), positions + start).transpose(1, 3).unbind(2) for start in (0, 10**6)]
    (q, k, v), expected = turned[0], reference.scores(*turned[1][:2])
    torch.testing.assert_close(reference.scores(q, k), expected, rtol=0, atol=1e-8)
    assert (reference.scores(*z.transpose(1, 3).unbind(2)[:2]) - expected).abs().max() > 0.1
    assert v.equal(z[:, :, 2].transpose(1, 2))


@pytest.mark.parametrize("positions", [torch.arange(5), torch.tensor([[0, 1, 2, 3, 4], [500_000, 7, 7, 9, 3]])])
def test_rotary_positions_by_complex_numbers(positions: Tensor) -> None:
    z = projections(2, 5).requires_grad_()
    turns = rotations(positions, 8, z.dtype)[..., None, None, :, :]
    equal(rotate_(z * 1.0, positions), rotated(z, turns), [z])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_rotary_positions_of_whole_sequences(dtype: torch.dtype) -> None:
    """The form that splits in the same pass, by kept cosines of more positions than there are."""
    z, rounding = projections(2, 37).to(dtype).flatten(2).requires_grad_(), torch.finfo(dtype).eps
    exact = z.detach().double().requires_grad_()
    turned = rotate_(exact.unflatten(-1, (3, 2, 8)) * 1.0, torch.arange(37)).transpose(1, 3)
    parts = torch.stack(rotary_split(z, 2), dim=2)
    torch.testing.assert_close(parts.double(), turned, rtol=rounding, atol=4 * rounding)
    grad = torch.randn_like(parts)
    (gradient,), (expected,) = torch.autograd.grad(parts, z, grad), torch.autograd.grad(turned, exact, grad.double())
    torch.testing.assert_close(gradient.double(), expected, rtol=rounding, atol=4 * rounding)


def test_distant_rotary_positions_are_exact_in_float32() -> None:
    positions = torch.tensor([500_000])
    turns = [rotations(positions, 8, dtype) for dtype in (torch.float32, torch.float64)]
    assert turns[0].dtype == torch.float32
    torch.testing.assert_close(turns[0].double(), turns[1], rtol=0, atol=1e-7)
    half = rotate_(projections(1, 1).bfloat16(), positions)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), rotate_(projections(1, 1), positions), rtol=0, atol=0.05)


def model(layout: str, **fields: object) -> HyenaLM:
    """Weights large enough that a change far back is felt."""
    torch.manual_seed(0)
    shape = {
        "d_model": 24, "n_layer": 3, "max_length": 200, "filter_order": 8, "heads": 3, "attention_window": 13,
        "attention_segments": SEGMENTS, "embed_dropout": 0.0, "recall_taps": 5, "recall_keys": 9,
    }  # fmt: skip
    made = HyenaLM(ModelConfig(**{**shape, "layout": layout, **fields})).double().eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def bases(*shape: int) -> Tensor:
    return torch.randint(7, 11, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stepping_equals_the_full_forward(layout: str) -> None:
    """Prompts of unequal lengths, one of a single token, one that several sequences go on from."""
    lm, ids = model(layout), bases(3, 130)
    lengths, rows, length = torch.tensor([1, 6, 40]), torch.tensor([2, 0, 1, 0]), 80
    with torch.no_grad():
        full = lm(ids)
    stepper = Stepper(lm, length)
    logits = [stepper.prefill(ids[:, :40], lengths, rows)]
    logits += [stepper.step(ids[rows, lengths[rows] + position]) for position in range(length)]
    expected = torch.stack([full[row, lengths[row] - 1 : lengths[row] + length] for row in rows])
    torch.testing.assert_close(torch.stack(logits, dim=1), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", [0, 1, 4, 60])
def test_alternatives_equal_full_passes(layout: str, first: int) -> None:
    backbone, ids, ends = model(layout).backbone, bases(3, 150), bases(6, 40).flip(0)
    rows, starts = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([first, first, first + 1, first + 3, 90, 110])
    shared, plain = reference_states(backbone, ids, first), plain_reference_states(backbone, ids, first)
    torch.testing.assert_close(shared.hidden, plain.hidden)
    states = alternative_states(backbone, shared, rows, starts, ends)
    torch.testing.assert_close(states, plain_alternative_states(backbone, plain, rows, starts, ends))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_on_the_right_changes_nothing(layout: str) -> None:
    lm, ids = model(layout), bases(2, 77)
    with torch.no_grad():
        padded = lm(torch.nn.functional.pad(ids, (0, 60), value=4))
        torch.testing.assert_close(padded[:, :77], lm(ids))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(GenomeLMError, match="d_model is 24 and there are 5 heads: make d_model a multiple of 10"):
        model("attention", heads=5)
    with pytest.raises(GenomeLMError, match="first dilation must be 1"):
        model("attention-dilated", attention_segments=((16, 2),))
    with pytest.raises(GenomeLMError, match="30 is no multiple of its dilation 4"):
        model("attention-dilated", attention_segments=((16, 1), (30, 4)))
    assert [
        model("attention", heads=0, d_model=width).backbone.blocks[0].mixer.heads for width in (24, 128, 200)
    ] == [1, 2, 2]


PATTERNS = [name for name in MIXERS if name.startswith("attention")]


def shape(layout: str, length: int, blocks: int = 2, **fields: int) -> ModelConfig:
    return ModelConfig(d_model=64, n_layer=blocks, max_length=length, embed_dropout=0.0, layout=layout, **fields)


@pytest.mark.parametrize(("layout", "recall_keys"), [*((name, 0) for name in PATTERNS), ("attention-recall", 64)])
def test_forecasts_for_a_cpu_are_what_exists_at_one_time(
    layout: str, recall_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Differences of two lengths, which leave out the parts that have any."""
    monkeypatch.setenv("GENOME_LM_KERNEL", "cpu")  # short as they are
    monkeypatch.setattr(memory, "KEPT_HIDDEN", 1)
    monkeypatch.setattr(mlp, "KEPT_HIDDEN", 1)
    for name in ("FORWARD_HOLES", "TRAINING_HOLES"):  # what exists is counted, not what the allocator keeps
        monkeypatch.setattr(memory, name, {})
    monkeypatch.setattr(attention_memory, "FREED_BLOCKS", 0)
    monkeypatch.setattr(memory, "BLAS_ROWS", 0)
    if layout == "attention-recall":  # the last norm comes when its blocks are freed; they outweigh it
        monkeypatch.setattr(memory, "NORM_CHUNK", 0)
    for forecast, training, heads in (
        (forward_bytes, False, 1),
        (training_bytes, True, 1),
        (training_bytes, True, 4),
    ):
        peaks, guesses = [], []
        for length in (1_500, 3_000):
            config = shape(layout, length, heads=heads, attention_window=64, recall_keys=recall_keys)
            lm, ids = HyenaLM(config), bases(1, length)
            with torch.set_grad_enabled(training), Memory() as counted:
                loss = lm.train(training).loss(ids, ids)
                if training:
                    loss.backward()
            peaks.append(counted.most)
            pieces = memory._pieces(config, length, "training" if training else "forward")
            projected = 0 if training else 4 * 4 * config.d_model * rows_of_piece(length, POSITIONS)  # a piece's
            guesses.append(forecast(config, length) - pieces + projected)
        if recall_keys:  # Its blocks of scores have the same size at all lengths.
            assert 0.75 * peaks[1] < guesses[1] < 1.5 * peaks[1], (training, heads)
            continue
        assert guesses[1] - guesses[0] == pytest.approx(peaks[1] - peaks[0], rel=0.2), (training, heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", PATTERNS)
def test_forecasts_for_a_gpu_are_what_exists_at_one_time(
    layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
    for module in (dilated, patterns, softmax):
        monkeypatch.setattr(module, "runs_flash", lambda q: False)
    monkeypatch.setattr(nearest, "BLOCK_SCORES", 1 << 17)  # as small beside these lengths as on a GPU
    monkeypatch.setattr(attention_memory, "CUDA_BLOCK_SCORES", 0)  # they have a test of their own
    lengths = ((1, 2_000, 1), (2, 1_500, 2)) if layout == "attention-recall" else ((1, 10_000, 1), (3, 5_000, 4))
    for sequences, length, heads in lengths:
        batch = GpuBatch(shape(layout, length, heads=heads), sequences, length, dtype, has_triton=False)
        assert cuda_training_bytes(batch) == pytest.approx(peak(batch, training=True), rel=0.08)
        assert cuda_forward_bytes(batch) == pytest.approx(peak(batch, training=False), rel=0.15)


def test_the_forecast_for_a_gpu_has_the_blocks_of_scores_of_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
    monkeypatch.setattr(nearest, "BLOCK_SCORES", 1 << 20)
    monkeypatch.setattr(attention_memory, "CUDA_BLOCK_SCORES", 1 << 20)
    batch = GpuBatch(shape("attention-recall", 2_000, heads=2), 1, 2_000, has_triton=False)
    for training, forecast in ((True, cuda_training_bytes(batch)), (False, cuda_forward_bytes(batch))):
        counted = peak(batch, training)
        assert counted <= forecast < 1.35 * counted


@pytest.mark.parametrize("layout", PATTERNS)
def test_generation_keeps_what_is_forecast(layout: str) -> None:
    lm = model(layout, n_layer=1)
    stepper = Stepper(lm, 60)
    stepper.prefill(bases(1, 40))
    state = stepper._states[0]
    kept = sum(key.numel() for key in state._cache[0])  # type: ignore[attr-defined]
    kept += sum(ring._inputs.numel() for ring in getattr(state, "_rings", []))
    assert kept == MIXERS[layout].step_values(lm.config, 40, 60)


@pytest.mark.parametrize("layout", PATTERNS)
def test_torch_compile(layout: str) -> None:
    lm, ids = model(layout, n_layer=1), bases(2, 77)
    torch.compiler.reset()
    expected, compiled = lm.loss(ids, ids), torch.compile(lm.loss, backend="aot_eager", fullgraph=True)(ids, ids)
    torch.testing.assert_close(compiled, expected)
    parameters = [*lm.backbone.blocks.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(loss, parameters) for loss in (compiled, expected)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", PATTERNS)
def test_the_sub_block_without_gradients_is_the_plain_one(layout: str, dtype: torch.dtype) -> None:
    block, x = model(layout, n_layer=1).to(dtype).backbone.blocks[0], torch.randn(2, 300, 24, dtype=dtype)
    mixer, norm, dropout = block.mixer, block.norm1, block.dropout
    expected = (x + mixer(norm(x))).detach()  # with gradients: in plain form
    before = x.clone()
    with torch.no_grad():
        bounds = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
        torch.testing.assert_close(mixer.add(x, norm, dropout, False), expected, **bounds)
        assert x.equal(before)
        assert mixer.add(x, norm, dropout, True) is x
        torch.testing.assert_close(x, expected, **bounds)


@pytest.mark.parametrize("layout", PATTERNS)
def test_the_residual_stream_stays_in_float32_within_autocast(layout: str) -> None:
    lm, ids = model(layout).float(), bases(2, 300)[:, :200]
    with torch.no_grad():
        expected = lm.backbone(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = lm.backbone(ids)
    assert hidden.dtype == torch.float32
    assert (hidden - expected).std() < 0.1 * expected.std()


def test_recall_at_first_finds_where_the_same_bases_stood() -> None:
    """A new mixer attends most to the base behind the last words that are the same, as far back as they stand."""
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=128, n_layer=1, max_length=900, embed_dropout=0.0, layout="attention-recall", attention_window=32
    )
    lm, ids = HyenaLM(config).eval(), bases(1, 800)
    ids[:, 700:] = ids[:, 100:200]
    block = lm.backbone.blocks[0]
    with torch.no_grad():
        (q,), (k, _) = block.mixer.split(block.norm1(lm.backbone.read(ids)), torch.arange(800))  # type: ignore[operator]
    nearest_keys = reference.scores(q, k)[0, :, 720:].argmax(-1)
    assert (nearest_keys == torch.arange(121, 201)).all(0)[:79].float().mean() > 0.95


def test_recall_sees_other_sequences_in_training_alone() -> None:
    lm, ids = model("attention-recall", n_layer=1, recall_others=1), bases(3, 40)
    mixer, x = lm.backbone.blocks[0].mixer, torch.randn(3, 40, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), torch.cat([mixer(row[None]) for row in x]))
        mixer.train()
        queries, (k, v) = mixer.split(x, torch.arange(40))  # type: ignore[operator]
        (q,) = queries
        positions = torch.arange(80)
        recent = reference.recency(positions[40:], positions, 13)
        for row, other in enumerate([2, 0, 1]):
            keys, values = (torch.cat([part[other], part[row]], dim=1)[None] for part in (k, v))
            counts = reference.nearest_counts(q[row : row + 1], keys, recent, 9)
            expected = mixer.join(reference.attention(q[row : row + 1], keys, values, counts))  # type: ignore[operator]
            torch.testing.assert_close(mixer(x)[row], expected[0])
        torch.testing.assert_close(mixer(x[:1]), mixer.eval()(x[:1]))
    assert not lm.train()(ids).equal(lm.eval()(ids))
