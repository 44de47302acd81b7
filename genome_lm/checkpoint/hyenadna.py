"""HyenaDNA's names for its tensors, and ours; the shape of a model from its tensors.

In the original (https://github.com/HazyResearch/hyena-dna) keys begin with `model.`, and with the flags
`checkpoint_mixer` and `checkpoint_mlp` carry an extra `.layer.`; in the Hugging Face port they begin with `hyena.`.
The filter's MLP is a torch.nn.Sequential of linear layers at even places and one sine activation, shared, at the odd.

Every published model has order 2. For higher orders a filter's channels go step by step, as in standalone_hyenadna.py
there and in the port; the training code in src/ interleaves the steps instead, which tensors can't tell.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.filter import ImplicitFilter

EMBEDDING = "backbone.embeddings.word_embeddings.weight"
HEAD = "lm_head.weight"
_PREFIX = re.compile(r"^(model\.|hyena\.)(?=backbone\.|lm_head\.)")
_METRIC = re.compile(r"^(train|val|test)_torchmetrics\.")
_CHECKPOINTED = re.compile(r"\.(mixer|mlp)\.layer\.")
_FILTER = re.compile(r"backbone\.layers\.(\d+)\.mixer\.filter_fn\.(.+)")
_PARTS = {
    "mixer.in_proj": "mixer.in_proj",
    "mixer.out_proj": "mixer.out_proj",
    "mixer.short_filter": "mixer.short_conv",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Modules of a block: theirs → ours; each has a weight and a bias."""
FEATURE_TOLERANCE = 1e-5
Shapes = Mapping[str, tuple[int, ...]]


def canonical(key: str) -> str:
    """A key without the prefix of its form and the traces of the memory flags."""
    return _CHECKPOINTED.sub(r".\1.", _PREFIX.sub("", key))


def is_metric(key: str) -> bool:
    """Whether a key is of a count that the original's training kept beside the model."""
    return _METRIC.match(key) is not None


def is_hyenadna(keys: Iterable[str]) -> bool:
    """Whether these are a HyenaDNA language model's keys."""
    names = {canonical(key) for key in keys}
    return EMBEDDING in names and any(_FILTER.match(name) for name in names)


def infer_config(shapes: Shapes, source: str) -> ModelConfig:
    """The model's shape from the shapes of its tensors, by canonical key.

    Raises:
        GenomeLMError: If a tensor that tells a size is missing or has another number of dimensions.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        key = f"backbone.layers.0.{name}" if not name.startswith("backbone.") else name
        if len(found := shapes.get(key, ())) != dimensions:
            raise GenomeLMError(f"{source}: no tensor {key} of {dimensions} dimensions; not a HyenaDNA model")
        return found

    rows, d_model = shape(EMBEDDING, 2)
    if rows != EMBEDDING_ROWS:
        raise GenomeLMError(
            f"{source}: an embedding of {rows} rows; HyenaDNA's 12 tokens are padded to {EMBEDDING_ROWS}, so this is "
            "a model of another vocabulary"
        )
    layers = {int(match[1]) for name in shapes if (match := re.match(r"backbone\.layers\.(\d+)\.", name))}
    linears = [
        int(match[1])
        for name in shapes
        if (match := re.fullmatch(r"backbone\.layers\.0\.mixer\.filter_fn\.implicit_filter\.(\d+)\.weight", name))
    ]
    return ModelConfig(
        d_model=d_model,
        n_layer=max(layers) + 1,
        max_length=shape("mixer.filter_fn.pos_emb.z", 3)[1] - 2,
        d_inner=shape("mlp.fc1.weight", 2)[0],
        order=shape("mixer.in_proj.weight", 2)[0] // d_model - 1,
        short_filter_order=shape("mixer.short_filter.weight", 3)[2],
        emb_dim=shape("mixer.filter_fn.implicit_filter.0.weight", 2)[1],
        filter_order=shape("mixer.filter_fn.implicit_filter.0.weight", 2)[0],
        num_inner_mlps=len(linears) - 2,
    )


def names(config: ModelConfig) -> dict[str, str]:
    """Our names of all parameters and buffers → the canonical HyenaDNA names (the sine's at its first place)."""
    table = {"backbone.embedding.weight": EMBEDDING}
    kinds = "weight", "bias"
    table |= {f"backbone.norm.{kind}": f"backbone.ln_f.{kind}" for kind in kinds}
    for layer in range(config.n_layer):
        ours, theirs = f"backbone.blocks.{layer}", f"backbone.layers.{layer}"
        for part, mine in _PARTS.items():
            table |= {f"{ours}.{mine}.{kind}": f"{theirs}.{part}.{kind}" for kind in kinds}
        ours, theirs = f"{ours}.mixer", f"{theirs}.mixer.filter_fn"
        table[f"{ours}.filter_bias"] = f"{theirs}.bias"
        table[f"{ours}.filter.deltas"] = f"{theirs}.modulation.deltas"
        table[f"{ours}.filter.freq"] = f"{theirs}.implicit_filter.1.freq"
        hidden = config.num_inner_mlps + 1
        for number in range(hidden):
            for kind in kinds:
                table[f"{ours}.filter.hidden.{number}.{kind}"] = f"{theirs}.implicit_filter.{2 * number}.{kind}"
        table[f"{ours}.filter.out.weight"] = f"{theirs}.implicit_filter.{2 * hidden}.weight"
    return table


def features(model: HyenaLM) -> dict[str, Tensor]:
    """The positional features that HyenaDNA stores and we compute: …t (1, N, 1) and …z (1, N, emb_dim) a layer."""
    stored = {}
    filters = [module for module in model.modules() if isinstance(module, ImplicitFilter)]
    for layer, long_filter in enumerate(filters):
        prefix = f"backbone.layers.{layer}.mixer.filter_fn.pos_emb"
        stored[f"{prefix}.t"] = long_filter.times(long_filter.span)[None, :, None].float().cpu()
        stored[f"{prefix}.z"] = long_filter.features(long_filter.span)[None].float().cpu()
    return stored


def to_ours(config: ModelConfig, state: dict[str, Tensor], source: str) -> HyenaLM:
    """A model from HyenaDNA's tensors by canonical key; every one is used or checked.

    Raises:
        GenomeLMError: Listing tensors that are missing, superfluous or of another shape, a head that is not tied to
            the embedding, sines that are not shared, or positional features other than HyenaDNA's.
    """
    model = HyenaLM(config)
    expected, table = model.state_dict(), names(config)
    left, problems, ours = dict(state), [], {}
    for mine, theirs in table.items():
        tensor = left.pop(theirs, None)
        if tensor is None:
            problems.append(f"missing {theirs}")
        elif tensor.squeeze().shape != expected[mine].squeeze().shape:
            problems.append(f"{theirs} is {tuple(tensor.shape)}, should be like {tuple(expected[mine].shape)}")
        else:
            ours[mine] = tensor.float().reshape(expected[mine].shape)
    copies = [(HEAD, EMBEDDING)] + [
        (name, re.sub(r"\.\d+\.freq$", ".1.freq", name)) for name in state if re.search(r"\.\d+\.freq$", name)
    ]
    for copy, original in copies:
        tensor = left.pop(copy, None)
        if tensor is not None and original in state and not torch.equal(tensor, state[original]):
            problems.append(f"{copy} differs from {original}, which HyenaDNA ties it to")
    for name, tensor in features(model).items():
        found = left.pop(name, None)
        if found is not None and (
            found.shape != tensor.shape or not torch.allclose(found.float(), tensor, atol=FEATURE_TOLERANCE)
        ):
            problems.append(f"{name} is not HyenaDNA's positional features; learned ones are not supported")
    problems += [f"superfluous {name}" for name in left]
    if problems:
        raise GenomeLMError(f"{source}: tensors don't fit HyenaDNA:\n  " + "\n  ".join(problems))
    model.load_state_dict(ours)
    return model


def to_theirs(model: HyenaLM, prefix: str) -> dict[str, Tensor]:
    """All tensors of a model under the names of the Hugging Face port, shaped as there."""
    table = names(model.config)
    state = {table[mine]: tensor.detach().float().cpu() for mine, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith(".freq"):
            state[name] = tensor.view(1, -1)
        elif name.endswith(".deltas"):
            state[name] = tensor.view(1, 1, -1)
    state |= features(model)
    exported = {f"{prefix}{name}": tensor.contiguous() for name, tensor in state.items()}
    # safetensors stores no tensor twice, so the tied head is a copy.
    return {**exported, HEAD: state[EMBEDDING].clone()}
