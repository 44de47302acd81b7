"""The operations that models compute with: plain references, and faster backends behind one dispatch.

This is the only door: other folders import operations from here, and never from the folders of the backends. Only
what measures, proves or forecasts the backends themselves looks inside.
"""

from genome_lm.kernels import steps
from genome_lm.kernels.attention.dilated import dilated_attention
from genome_lm.kernels.attention.nearest import nearest_attention
from genome_lm.kernels.attention.patterns import full_attention, local_attention
from genome_lm.kernels.attention.reference import (
    Segments,
    causal_counts,
    dilated_counts,
    local_counts,
    nearest_counts,
    recency,
)
from genome_lm.kernels.attention.rotary import rotate_
from genome_lm.kernels.conv.depthwise import depthwise
from genome_lm.kernels.conv.implicit import (
    FilterNetwork,
    filter_times,
    positional_features,
    sine_layers,
)
from genome_lm.kernels.conv.online import OnlineConv, ReplayedConv, TileFilters, convolve_ahead
from genome_lm.kernels.conv.reference import causal_conv
from genome_lm.kernels.conv.spectra import bins, spectrum
from genome_lm.kernels.cpu.filters import Convolutions
from genome_lm.kernels.cpu.long_filters import FilterRows, FilterWeights, by_spectra
from genome_lm.kernels.cpu.low_precision import Precision, lowered, reason_against
from genome_lm.kernels.cpu.mixer import Around, kept_projections, residual_mixer, residual_mixer_
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights, residual_mlp, residual_mlp_
from genome_lm.kernels.cpu.products import add_linear, linear
from genome_lm.kernels.cpu.stages import decay_window
from genome_lm.kernels.cpu.streams import (
    InProjection,
    Recall,
    add_projected,
    recall_attention_streams,
    rotary_attention_streams,
    rotary_split,
)
from genome_lm.kernels.cpu.sub_blocks import has_mlp_in_c
from genome_lm.kernels.cpu.taps import ExplicitFilters
from genome_lm.kernels.cpu.torch_private import changes, is_transformed, is_watched
from genome_lm.kernels.cpu.workers import Sizes, for_each, most_sharing, own_threads, rows_of_piece
from genome_lm.kernels.cpu.workspace import release_buffers
from genome_lm.kernels.dispatch import (
    Backend,
    backend_for,
    core_spectra,
    core_spectra_bytes,
    forced_backend,
    fused_steps,
    gated_causal_conv,
    head_losses,
    hyena_branch,
    hyena_core,
    hyena_core_by_spectra,
    implicit_filter,
    mlp_branch,
    mlp_sub_block,
    runs_core,
    runs_head,
    runs_rows,
)
from genome_lm.kernels.graphs import Replayed, without_graphs
from genome_lm.kernels.numerics import deterministic, outside_autocast, products_dtype
from genome_lm.kernels.projections import from_channels, to_channels
from genome_lm.kernels.recomputed import recomputed
from genome_lm.kernels.steps import Draws
from genome_lm.kernels.sub_blocks import Branch, HeadWeights
from genome_lm.kernels.triton.plan import WIDEST, precision_of

__all__ = [
    "WIDEST",
    "Around",
    "Backend",
    "Branch",
    "Convolutions",
    "Draws",
    "ExplicitFilters",
    "FilterNetwork",
    "FilterRows",
    "FilterWeights",
    "HeadWeights",
    "InProjection",
    "MixerWeights",
    "MlpWeights",
    "OnlineConv",
    "Precision",
    "Recall",
    "Replayed",
    "ReplayedConv",
    "Segments",
    "Sizes",
    "TileFilters",
    "add_linear",
    "add_projected",
    "backend_for",
    "bins",
    "by_spectra",
    "causal_conv",
    "causal_counts",
    "changes",
    "convolve_ahead",
    "core_spectra",
    "core_spectra_bytes",
    "decay_window",
    "depthwise",
    "deterministic",
    "dilated_attention",
    "dilated_counts",
    "filter_times",
    "for_each",
    "forced_backend",
    "from_channels",
    "full_attention",
    "fused_steps",
    "gated_causal_conv",
    "has_mlp_in_c",
    "head_losses",
    "hyena_branch",
    "hyena_core",
    "hyena_core_by_spectra",
    "implicit_filter",
    "is_transformed",
    "is_watched",
    "kept_projections",
    "linear",
    "local_attention",
    "local_counts",
    "lowered",
    "mlp_branch",
    "mlp_sub_block",
    "most_sharing",
    "nearest_attention",
    "nearest_counts",
    "outside_autocast",
    "own_threads",
    "positional_features",
    "precision_of",
    "products_dtype",
    "reason_against",
    "recall_attention_streams",
    "recency",
    "recomputed",
    "release_buffers",
    "residual_mixer",
    "residual_mixer_",
    "residual_mlp",
    "residual_mlp_",
    "rotary_attention_streams",
    "rotary_split",
    "rotate_",
    "rows_of_piece",
    "runs_core",
    "runs_head",
    "runs_rows",
    "sine_layers",
    "spectrum",
    "steps",
    "to_channels",
    "without_graphs",
]
