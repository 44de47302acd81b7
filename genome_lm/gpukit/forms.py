"""The sizes at which the stages run."""

from dataclasses import dataclass
from itertools import product

from genome_lm.config import PRESETS, ModelConfig

Shape = tuple[int, int, int]
"""Sequences, channels, positions."""


@dataclass(frozen=True)
class Training:
    """The run that is killed and resumed.

    Attributes:
        model: Its shape.
        length: Bases of a window.
        steps: Of the optimiser.
        kill_at: Steps after which it is killed.
        tokens: Bases of a step.
        lr: Its peak learning rate.
        most_bits: Bits per base that the mean of the last ten steps must not exceed.
        single: Model of a single step at its full length, whose peak of memory is measured.
    """

    model: ModelConfig
    length: int
    steps: int
    kill_at: int
    tokens: int
    lr: float
    most_bits: float
    single: ModelConfig


@dataclass(frozen=True)
class Form:
    """Sizes of all stages.

    Attributes:
        name: What it is called.
        seconds: Share of a stage's limit that this form may take.
        square: Rows and columns of the matrices whose product is timed.
        copied: Bytes that are copied to measure the memory's rate.
        compiled: Kernels that are compiled ahead of time.
        shapes: Of the convolutions that are compared with float64.
        probed: Shape that streams, graphs and the causal order are tried on; of several passes, but in the toy form.
        large: Shape with more than 2³¹ elements per gate; None to leave it out.
        lengths: At which a model is compared with float64.
        model: Shape of that model.
        training: The run that is killed and resumed.
        generated: Bases generated.
        batches: Sequences of the batches whose time per token is measured.
        timed: Shapes of the convolutions that are timed.
        rounds: Of timing, each side once per round.
        blocks: Shapes of the blocks that are timed.
        steps: Presets whose forward and training step are timed, with sequences and positions.
    """

    name: str
    seconds: float
    square: int
    copied: int
    compiled: tuple[str, ...]
    shapes: tuple[Shape, ...]
    probed: Shape
    large: Shape | None
    lengths: tuple[int, ...]
    model: ModelConfig
    training: Training
    generated: int
    batches: tuple[int, ...]
    timed: tuple[Shape, ...]
    rounds: int
    blocks: tuple[Shape, ...]
    steps: tuple[tuple[ModelConfig, int, int], ...]


CONVOLUTIONS = (
    "tile_spectrum", "tile_conv", "tile_conv_backward", "columns_fft", "rows_fft", "rows_conv", "rows_backward",
    "columns_ifft", "columns_ifft_backward", "taps_backward",
)  # fmt: skip
"""Kernels of `genome_lm.kernels.triton.conv`."""
KERNELS = (
    *CONVOLUTIONS, "norm_rows", "norm_rows_backward", "gelu_rows", "gelu_rows_backward", "round_rows", "head_rows",
    "head_rows_backward", "linear_gelu", "linear_gelu_backward", "filter_forward", "filter_backward_hidden",
    "filter_backward_out", "filter_backward_inner", "filter_backward_first", "toeplitz_table", "toeplitz_conv",
    "toeplitz_conv_backward",
)  # fmt: skip
"""These, and those of `rows`, `products`, `filters` and `toeplitz`."""

WIDTHS, LENGTHS = (256, 768), (1_024, 8_192, 32_768, 160_000, 450_000, 1_000_000)
"""Of the blocks that docs/gpu.md counts."""
_SMALL = (1, 37, 255, 257, 1_023, 1_024, 1_025, 1_026, 4_099)
_MODEL = ModelConfig(d_model=128, n_layer=2, max_length=32_768, embed_dropout=0.0)
_TINY = ModelConfig(d_model=16, n_layer=2, max_length=300, filter_order=8, embed_dropout=0.0)
_TRAINING = Training(PRESETS["tiny-1k"], 1_024, 60, 25, 65_536, 0.004, 1.98, PRESETS["large-1m"])

FULL = Form(
    name="full",
    seconds=1.0,
    square=8_192,
    copied=2 << 30,
    compiled=KERNELS,
    shapes=(
        *((3, 5, length) for length in _SMALL), (2, 16, 32_768), (1, 4, 160_001), (1, 4, 450_000), (1, 2, 1_000_002),
        *((batch, 3, length) for batch in (33, 128) for length in (255, 1_024, 1_025, 2_001)),
    ),
    probed=(2, 3, 1_503),
    large=(129, 256, 65_536),
    lengths=(1_024, 4_096, 32_768),
    model=_MODEL,
    training=_TRAINING,
    generated=200,
    batches=(1, 8, 64),
    timed=(
        (256, 128, 1_024), (128, 256, 2_048), (64, 256, 4_096), (8, 256, 32_768), (1, 256, 160_000),
        (1, 256, 450_000), (1, 256, 1_000_000),
    ),
    rounds=5,
    blocks=tuple((max(1, (1 << 18) // length), width, length) for width, length in product(WIDTHS, LENGTHS)),
    steps=(
        (PRESETS["tiny-1k"], 256, 1_024), (PRESETS["small-32k"], 8, 32_768), (PRESETS["medium-160k"], 1, 160_000),
        (PRESETS["large-1m"], 1, 1_000_000),
    ),
)  # fmt: skip
SHORT = Form(
    name="short",
    seconds=0.5,
    square=4_096,
    copied=1 << 30,
    compiled=(),
    shapes=(
        (3, 5, 37),
        (3, 5, 257),
        (3, 5, 1_024),
        (3, 5, 1_026),
        (33, 3, 1_025),
        (128, 3, 1_024),
        (2, 16, 32_768),
        (1, 2, 160_001),
    ),
    probed=(2, 3, 1_503),
    large=None,
    lengths=(1_024, 4_096),
    model=_MODEL,
    training=Training(PRESETS["tiny-1k"], 1_024, 40, 15, 65_536, 0.004, 1.9, PRESETS["small-32k"]),
    generated=50,
    batches=(1, 8, 64),
    timed=((256, 128, 1_024), (8, 256, 32_768)),
    rounds=3,
    blocks=((256, 256, 1_024), (8, 256, 32_768)),
    steps=((PRESETS["tiny-1k"], 256, 1_024), (PRESETS["small-32k"], 4, 32_768)),
)
TOY = Form(
    name="toy",
    seconds=1.0,
    square=64,
    copied=1 << 16,
    compiled=("gelu_rows",),
    shapes=((1, 2, 37),),
    probed=(1, 1, 70),
    large=(3, 2, 40),
    lengths=(60, 300),
    model=_TINY,
    training=Training(_TINY, 64, 24, 8, 512, 0.01, 2.1, _TINY),
    generated=12,
    batches=(1,),
    timed=((1, 2, 100),),
    rounds=1,
    blocks=((2, 16, 100),),
    steps=((_TINY, 2, 300),),
)
FORMS = {form.name: form for form in (FULL, SHORT, TOY)}
