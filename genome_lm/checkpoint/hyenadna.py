"""HyenaDNA's names for its tensors, and ours; the shape of a model from its tensors.

In the original (https://github.com/HazyResearch/hyena-dna) keys begin with `model.`, and with the flags
`checkpoint_mixer` and `checkpoint_mlp` carry an extra `.layer.`; in the Hugging Face port they begin with `hyena.`.
The filter's MLP is a torch.nn.Sequential of linear layers at even places and one sine activation, shared, at the odd.

Every published model has order 2. For higher orders a filter's channels go step by step, as in standalone_hyenadna.py
there and in the port; the training code in src/ interleaves the steps instead, which tensors can't tell.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.checkpoint.stored import FLOATS, Stored, read_finite, refuse, shapes_of, wrong_type
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError, naming
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.filter import ImplicitFilter

EMBEDDING = "backbone.embeddings.word_embeddings.weight"
HEAD = "lm_head.weight"
CLASSIFIER = "score.weight"
"""The head of the port's HyenaDNAForSequenceClassification."""
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, Lightning's Fabric and FSDP put into names."""
_PREFIX = re.compile(r"^((model|module|hyena)\.)+(?=backbone\.|lm_head\.|score\.)")
_METRIC = re.compile(r"^(train|val|test)_torchmetrics\.")
_CHECKPOINTED = re.compile(r"\.(mixer|mlp)\.layer\.")
_LAYER = re.compile(r"backbone\.layers\.(0|[1-9][0-9]{0,5})\.")
_FILTER = re.compile(_LAYER.pattern + r"mixer\.filter_fn\.(.+)")
_LINEAR = re.compile(r"backbone\.layers\.0\.mixer\.filter_fn\.implicit_filter\.(0|[1-9][0-9]{0,5})\.weight")
_FEATURES = re.compile(_LAYER.pattern + r"mixer\.filter_fn\.pos_emb\.([tz])")
_FREQUENCY = re.compile(r"\.[0-9]+\.freq$")
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
"""How far positional features may lie from HyenaDNA's for the rounding of the machine that computed them."""
FILTER_TOLERANCE = 1e-3
"""How much of a filter's norm may change when tuned positional features are replaced by HyenaDNA's."""
TUNED = 0.1
"""How far features, which lie between -1 and 1, may have been tuned; beyond are others."""
_SAMPLED = 4_096
"""Positions at which that change is measured."""
Shapes = Mapping[str, tuple[int, ...]]
log = logging.getLogger(__name__)


def canonical(key: str) -> str:
    """A key without the prefixes of its form and of what wrapped the model, and the traces of the memory flags."""
    return _CHECKPOINTED.sub(r".\1.", _PREFIX.sub("", _WRAPPERS.sub("", key)))


def canonical_state(state: Mapping[str, Stored], source: str) -> dict[str, Stored]:
    """The tensors of a model by canonical key; counts of the original's training are left out.

    Raises:
        GenomeLMError: If two tensors have one canonical key.
    """
    tensors: dict[str, Stored] = {}
    keys: dict[str, str] = {}
    problems = []
    for key in (key for key in state if not is_metric(key)):
        name = canonical(key)
        if name in tensors:
            problems.append(f"{keys[name]} and {key}")
        tensors[name], keys[name] = state[key], key
    refuse(source, "two models in one file; keep one of each pair of tensors", problems)
    return tensors


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
        sizes = shapes.get(key, ())
        if len(sizes) != dimensions:
            raise GenomeLMError(f"{source}: no tensor {key} of {dimensions} dimensions; not a HyenaDNA model")
        if 0 in sizes:
            raise GenomeLMError(f"{source}: damaged: {key} is {sizes}, which holds nothing")
        return sizes

    rows, d_model = shape(EMBEDDING, 2)
    if rows != EMBEDDING_ROWS:
        raise GenomeLMError(
            f"{source}: an embedding of {rows} rows; HyenaDNA's 12 tokens are padded to {EMBEDDING_ROWS}, so this is "
            "a model of another vocabulary"
        )
    # Counted, so that a number in a name can't ask for more layers than there are tensors.
    layers = {match[1] for name in shapes if (match := _LAYER.match(name))}
    linears = [name for name in shapes if _LINEAR.fullmatch(name)]
    with naming(source):
        return ModelConfig(
            d_model=d_model,
            n_layer=len(layers),
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


def features(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """The positional features that HyenaDNA stores in each layer, and we compute: t (1, N, 1), z (1, N, emb_dim)."""
    with torch.random.fork_rng(devices=[]):
        any_filter = ImplicitFilter(dataclasses.replace(config, d_model=1, d_inner=1, order=2, filter_order=1))
    span = config.filter_length
    return any_filter.times(span)[None, :, None].detach(), any_filter.features(span)[None].detach()


def to_ours(config: ModelConfig, state: Mapping[str, Stored], source: str) -> HyenaLM:
    """A model from HyenaDNA's tensors by canonical key; every one is used or checked.

    The head of the port's HyenaDNAForSequenceClassification is left out, with a warning.

    Raises:
        GenomeLMError: Listing tensors that are missing, superfluous, of another shape or type, or damaged, a head
            that is not tied to the embedding, sines that are not shared, or positional features other than
            HyenaDNA's.
    """
    left = dict(state)
    problems: list[str] = []
    ours = _take_parameters(config, left, problems)
    _take_copies(state, left, problems)
    tuned = _take_features(config, left, problems)
    classifier = left.pop(CLASSIFIER, None)
    problems += [f"superfluous {name}" for name in left]
    refuse(source, "tensors don't fit HyenaDNA", problems)
    model = HyenaLM(config)
    model.load_state_dict(read_finite(ours, source))
    _check_filters(model, tuned, source)
    if classifier is not None:
        log.warning(
            "%s: a classifier's backbone; its head (%s) is left out, and likelihoods are no language model's",
            source,
            CLASSIFIER,
        )
    return model


def _take_parameters(config: ModelConfig, left: dict[str, Stored], problems: list[str]) -> dict[str, Stored]:
    """Take the parameters and buffers out of `left`; those that fit, by our names and in our shapes."""
    shapes, ours = shapes_of(lambda: HyenaLM(config)), {}
    for mine, theirs in names(config).items():
        tensor, shape = left.pop(theirs, None), shapes[mine]
        if tensor is None:
            problems.append(f"missing {theirs}")
            continue
        problems += wrong_type(theirs, tensor)
        if _squeezed(tensor.shape) != _squeezed(shape):
            problems.append(f"{theirs} is {tensor.shape}, should be like {shape}")
        else:
            ours[mine] = dataclasses.replace(tensor, shape=shape, read=_reshaping(tensor, shape))
    return ours


def _take_copies(state: Mapping[str, Stored], left: dict[str, Stored], problems: list[str]) -> None:
    """Take the head and the shared frequencies out of `left`, which must be what HyenaDNA ties them to."""
    originals = {name: _FREQUENCY.sub(".1.freq", name) for name in left if _FREQUENCY.search(name)}
    for copy, original in {**originals, HEAD: EMBEDDING}.items():
        if copy not in left or original not in state:
            continue
        if not _is_copy(left.pop(copy), state[original]):
            problems.append(f"{copy} differs from {original}, which HyenaDNA ties it to")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _reshaping(tensor: Stored, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    return lambda: tensor.read().reshape(shape)


def _is_copy(one: Stored, other: Stored) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.read(), other.read())


def _take_features(config: ModelConfig, left: dict[str, Stored], problems: list[str]) -> dict[int, Tensor]:
    """Take the positional features out of `left`, and check them.

    Returns:
        z (1, N, emb_dim) float32 of the layers that hold tuned ones.
    """
    matches = [match for name in left if (match := _FEATURES.fullmatch(name))]
    expected: dict[str, Tensor] = {}
    tuned = {}
    for match in matches:
        name, layer, kind = match[0], int(match[1]), match[2]
        tensor = left.pop(name)
        shape = (1, config.filter_length, 1 if kind == "t" else config.emb_dim)
        if tensor.shape != shape or tensor.dtype not in FLOATS:
            problems += wrong_type(name, tensor) or [f"{name} is {tensor.shape}, should be {shape}"]
            continue
        # Only now: it takes as much memory as the tensor in the file.
        expected = expected or dict(zip("tz", features(config), strict=True))
        values = tensor.read()
        difference = (values.float() - expected[kind]).abs().max().item()
        if difference <= max(FEATURE_TOLERANCE, _resolution(values)):
            continue
        if kind == "z" and difference <= TUNED:
            tuned[layer] = values.float()
        else:
            problems.append(f"{name} is not HyenaDNA's positional features (they differ by up to {difference:.2g})")
    return tuned


def _resolution(values: Tensor) -> float:
    """The rounding of numbers up to 1 in the type that values were saved in, though they may be float32 by now."""
    for dtype in (torch.bfloat16, torch.float16):
        if values.dtype == dtype or torch.equal(values.to(dtype).to(values.dtype), values):
            return torch.finfo(dtype).eps / 2
    return 0.0


@torch.no_grad()
def _check_filters(model: HyenaLM, tuned: Mapping[int, Tensor], source: str) -> None:
    """Refuse tuned positional features unless the filters are nearly the same without their tuning.

    The port trains the features z of each layer as if they were weights. Here they are computed, never stored.
    """
    filters = [module for module in model.modules() if isinstance(module, ImplicitFilter)]
    for layer, z in tuned.items():
        long_filter = filters[layer]
        sample = torch.linspace(0, z.shape[1] - 1, min(_SAMPLED, z.shape[1])).long()
        computed, stored = (_filter_of(long_filter, x[sample]) for x in (long_filter.features(z.shape[1]), z[0]))
        change = ((stored - computed).norm() / stored.norm()).item()
        what = (
            f"layer {layer}'s positional features were tuned, which the Hugging Face port does unless they are "
            f"frozen; with HyenaDNA's own, which are used here, its filters change by {change:.1e} of their norm"
        )
        if not change <= FILTER_TOLERANCE:
            raise GenomeLMError(
                f"{source}: {what}, too much to be the same model; freeze them (pos_emb.z.requires_grad_(False)) and "
                "tune again, or tune with `genome-lm finetune`"
            )
        log.warning("%s: %s", source, what)


def _filter_of(long_filter: ImplicitFilter, x: Tensor) -> Tensor:
    """The filters at positions of features x, without their windows."""
    for layer in long_filter.hidden:
        x = torch.sin(long_filter.freq * layer(x))
    return x @ long_filter.out.weight.T


def to_theirs(model: HyenaLM, prefix: str) -> dict[str, Tensor]:
    """All tensors of a model under the names of the Hugging Face port, shaped as there."""
    table = names(model.config)
    state = {table[mine]: tensor.detach().float().cpu() for mine, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith(".freq"):
            state[name] = tensor.view(1, -1)
        elif name.endswith(".deltas"):
            state[name] = tensor.view(1, 1, -1)
    t, z = features(model.config)
    for layer in range(model.config.n_layer):
        place = f"backbone.layers.{layer}.mixer.filter_fn.pos_emb"
        state |= {f"{place}.t": t.clone(), f"{place}.z": z.clone()}  # safetensors stores no tensor twice
    exported = {f"{prefix}{name}": tensor.contiguous() for name, tensor in state.items()}
    # For the same reason, the tied head is a copy.
    return {**exported, HEAD: state[EMBEDDING].clone()}
