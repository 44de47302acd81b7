"""Models of genome-lm for Hugging Face transformers, in plain PyTorch and without genome-lm: copied beside weights.

Every operator is written by its definition. What genome-lm computes with kernels, caches and block by block is one
line here. Attention to the nearest keys takes memory as the square of the length.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
)

VOCABULARY = "[CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N".split()
PAD, A, T = 4, 7, 10
EPSILON = 1e-4
"""Added to the mean square of the queries and keys of attention-recall."""
TIE = 1e-3
"""Scores of attention-recall that are this close count as equal."""


class GenomeLMConfig(PretrainedConfig):
    """Shape of a model: the fields of genome_lm.ModelConfig in `shape`, with its defaults; and how states are pooled.

    Attributes:
        shape: Names and values, as in the `model` section of a genome-lm checkpoint.
        pool: Of a classifier: "mean", "last", "max" or "masked" (the mean over A, C, G and T).
    """

    model_type = "genome_lm"

    def __init__(self, shape: dict | None = None, pool: str = "mean", **options) -> None:
        defaults = {
            "d_model": 128, "n_layer": 2, "max_length": 1024, "d_inner": 0, "order": 2, "short_filter_order": 3,
            "emb_dim": 5, "filter_order": 64, "num_inner_mlps": 2, "sine_frequency": 10.0, "layer_norm_epsilon": 1e-5,
            "embed_dropout": 0.1, "resid_dropout": 0.0, "layout": "hyena", "direction": "causal",
            "reversed_weights": "shared", "heads": 0, "attention_window": 256, "recall_taps": 16, "recall_keys": 768,
            "se_taps": 7, "mr_taps": 128, "filter_groups": 0, "ngram_order": 0, "ngram_width": 0,
        }  # fmt: skip
        self.shape = {**defaults, **(shape or {})}
        self.shape["d_inner"] = self.shape["d_inner"] or 4 * self.shape["d_model"]
        self.pool = pool
        self.vocab_size, self.hidden_size = 16, self.shape["d_model"]
        self.num_hidden_layers, self.max_position_embeddings = self.shape["n_layer"], self.shape["max_length"] + 2
        self.num_attention_heads = _heads(self.shape)
        self.is_decoder = self.shape["direction"] == "causal"
        options = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None, **options}
        super().__init__(**{**options, "tie_word_embeddings": False})


def _heads(shape: dict) -> int:
    width = shape["d_model"]
    fitting = (n for n in range(max(1, width // 64), 1, -1) if width % (2 * n) == 0)
    return shape["heads"] or next(fitting, 1)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Causal convolution of each channel with its own taps: (B, C, L), (C, 1, K) → (B, C, L)."""
    return F.conv1d(F.pad(x, (weight.shape[-1] - 1, 0)), weight, bias, groups=len(weight))


def _long_convolution(u: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """Causal convolution with filters as long as the sequence, and a skip: (B, D, L), (D, L), (D,) → (B, D, L)."""
    n = 2 * u.shape[-1]
    spectrum = torch.fft.rfft(u.float(), n=n) * torch.fft.rfft(h.float(), n=n)
    return torch.fft.irfft(spectrum, n=n)[..., : u.shape[-1]].to(u.dtype) + u * bias[:, None]


class ImplicitFilter(nn.Module):
    """The long filters: an MLP with sines of the position, times a decaying window."""

    def __init__(self, shape: dict) -> None:
        super().__init__()
        self.span, self.emb_dim = shape["max_length"] + 2, shape["emb_dim"]
        width, channels = shape["filter_order"], shape["d_model"] * (shape["order"] - 1)
        self.freq = nn.Parameter(torch.full((width,), float(shape["sine_frequency"])))
        inputs = [self.emb_dim] + [width] * shape["num_inner_mlps"]
        self.hidden = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.out = nn.Linear(width, channels, bias=False)
        decay = math.log(1e-2)
        self.register_buffer("deltas", torch.linspace(decay / 1.5, decay / 0.3, channels))

    def forward(self, length: int) -> Tensor:
        """Filters over the first positions: (channels, length)."""
        device, bands = self.freq.device, (self.emb_dim - 1) // 2
        position = torch.linspace(0, self.span - 1, self.span, device=device)[:length, None]
        frequency = torch.linspace(1e-4, bands - 1, bands, device=device)
        wave = torch.exp(-1j * frequency * (2 * math.pi * position / self.span))
        time = torch.linspace(0, 1, self.span, device=device)[:length]
        x = torch.cat([time[:, None], wave.real, wave.imag], dim=-1).to(self.freq.dtype)
        for layer in self.hidden:
            x = torch.sin(self.freq * layer(x))
        window = torch.exp(-self.deltas.abs()[:, None] * time) + 0.05
        return (self.out.weight @ x.T) * window


class Hyena(nn.Module):
    """The Hyena operator: gates and long convolutions."""

    def __init__(self, shape: dict) -> None:
        super().__init__()
        self.order = shape["order"]
        streams = shape["d_model"] * (self.order + 1)
        self.in_proj = nn.Linear(shape["d_model"], streams)
        self.short_conv = nn.Conv1d(streams, streams, shape["short_filter_order"], groups=streams)
        self.filter = ImplicitFilter(shape)
        self.filter_bias = nn.Parameter(torch.zeros(shape["d_model"] * (self.order - 1)))
        self.out_proj = nn.Linear(shape["d_model"], shape["d_model"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        streams = _depthwise(self.in_proj(x).mT, self.short_conv.weight, self.short_conv.bias)
        x0, *gates, v = streams.chunk(self.order + 1, dim=1)
        filters, biases = self.filter(x.shape[1]).chunk(self.order - 1), self.filter_bias.chunk(self.order - 1)
        for gate, h, bias in zip(reversed(gates), filters, biases, strict=True):
            v = _long_convolution(gate * v, h, bias)
        return self.out_proj((x0 * v).mT)


class Explicit(nn.Module):
    """hyena-se and hyena-mr: gates and a convolution with explicit taps, which decay in hyena-mr."""

    def __init__(self, shape: dict, decays: bool) -> None:
        super().__init__()
        width, taps = shape["d_model"], shape["mr_taps" if decays else "se_taps"]
        self.groups = shape["filter_groups"] or width
        self.in_proj = nn.Linear(width, 3 * width)
        self.short_conv = nn.Conv1d(3 * width, 3 * width, shape["short_filter_order"], groups=3 * width)
        self.taps = nn.Parameter(torch.zeros(self.groups, taps))
        self.out_proj = nn.Linear(width, width)
        self.skip = nn.Parameter(torch.zeros(width)) if decays else None
        if decays:
            self.register_buffer("rates", torch.logspace(-2, 2, self.groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        streams = _depthwise(self.in_proj(x).mT, self.short_conv.weight, self.short_conv.bias)
        x0, x1, v = streams.chunk(3, dim=1)
        taps, count = self.taps, self.taps.shape[1]
        if self.skip is not None:
            back = torch.linspace(1, 0, count, device=taps.device, dtype=taps.dtype)
            taps = taps * torch.exp(-self.rates[:, None] * back)
        taps = taps.repeat_interleave(x.shape[-1] // self.groups, dim=0)
        if self.skip is not None:
            taps = taps + F.pad(self.skip[:, None], (count - 1, 0))
        return self.out_proj((x0 * _depthwise(x1 * v, taps[:, None])).mT)


class Attention(nn.Module):
    """attention and attention-local: causal, with rotary positions; local to a window, or full."""

    def __init__(self, shape: dict, window: int | None = None) -> None:
        super().__init__()
        self.heads, self.window = _heads(shape), window
        self.in_proj = nn.Linear(shape["d_model"], 3 * shape["d_model"])
        self.out_proj = nn.Linear(shape["d_model"], shape["d_model"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        length = x.shape[1]
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        where = torch.arange(length, device=x.device)
        exponents = torch.arange(0, q.shape[-1], 2, dtype=torch.float64, device=x.device) / q.shape[-1]
        angles = where[:, None] * 10_000.0**-exponents
        cos, sin = angles.cos().float(), angles.sin().float()
        q, k = (_rotated(part, cos, sin) for part in (q, k))
        if self.window is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            back = where[:, None] - where
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=(back >= 0) & (back < self.window))
        return self.out_proj(y.transpose(1, 2).flatten(2))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of neighbouring channels, turned by the angle of their position: (B, H, L, C)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


class Recall(nn.Module):
    """attention-recall: to the last positions, and to the earlier ones before which the same bases stand."""

    def __init__(self, shape: dict) -> None:
        super().__init__()
        width, taps = shape["d_model"], shape["recall_taps"]
        self.heads, self.window, self.count = _heads(shape), shape["attention_window"], shape["recall_keys"]
        self.in_proj = nn.Linear(width, 2 * width)
        self.taps = nn.Parameter(torch.zeros(2 * width, 1, taps + 1))
        self.log_scale = nn.Parameter(torch.zeros(self.heads, 1, 1))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        features, values = self.in_proj(x).mT.chunk(2, dim=1)
        filtered = _depthwise(features.repeat(1, 2, 1), self.taps)
        q, k = filtered.unflatten(1, (2, self.heads, -1)).permute(1, 0, 2, 4, 3).unbind()
        q, k = (F.rms_norm(part, (part.shape[-1],), eps=EPSILON) for part in (q, k))
        v = values.unflatten(1, (self.heads, -1)).mT
        scores = (q * self.log_scale.exp()) @ k.mT * q.shape[-1] ** -0.5
        where = torch.arange(x.shape[1], device=x.device)
        back = where[:, None] - where
        if self.count and x.shape[1] > self.window + self.count:
            earlier = scores.masked_fill(back < self.window, -torch.inf)
            least = earlier.topk(self.count, sorted=False).values.amin(-1, keepdim=True) - TIE
            scores = scores.masked_fill((back >= self.window) & (earlier < least), -torch.inf)
        y = scores.masked_fill(back < 0, -torch.inf).softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).flatten(2))


OPERATORS = {
    "hyena": Hyena,
    "hyena-se": lambda shape: Explicit(shape, decays=False),
    "hyena-mr": lambda shape: Explicit(shape, decays=True),
    "attention": Attention,
    "attention-local": lambda shape: Attention(shape, shape["attention_window"]),
    "attention-recall": Recall,
}


class Mlp(nn.Module):
    """Position-wise, with the tanh form of GELU."""

    def __init__(self, shape: dict) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape["d_model"], shape["d_inner"])
        self.fc2 = nn.Linear(shape["d_inner"], shape["d_model"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, L, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm residual block; of a model that reads both ways, the mixer reads the reversed sequence too."""

    def __init__(self, shape: dict, operator: str) -> None:
        super().__init__()
        epsilon = shape["layer_norm_epsilon"]
        self.norm1, self.norm2 = (nn.LayerNorm(shape["d_model"], eps=epsilon) for _ in range(2))
        self.mixer = OPERATORS[operator](shape)
        self.reversed_mixer = OPERATORS[operator](shape) if shape["reversed_weights"] == "own" else None
        self.mlp = Mlp(shape)
        self.dropout = nn.Dropout(shape["resid_dropout"])

    def forward(self, x: Tensor, turned: Tensor | None) -> Tensor:
        """The residual stream, (B, L, D); `turned` are the places of the reversed sequences, (B, L, 1)."""
        normed = self.norm1(x)
        mixed = self.dropout(self.mixer(normed))
        if turned is not None:
            back = (self.reversed_mixer or self.mixer)(normed.take_along_dim(turned, 1))
            mixed = mixed + self.dropout(back).take_along_dim(turned, 1)
        x = x + mixed
        return x + self.dropout(self.mlp(self.norm2(x)))


class NgramEmbedding(nn.Module):
    """A vector for each word of 2 to `ngram_order` bases that ends at a position."""

    def __init__(self, shape: dict) -> None:
        super().__init__()
        self.order, width = shape["ngram_order"], shape["ngram_width"] or shape["d_model"]
        words = sum(4**length for length in range(2, self.order + 1))
        self.weight = nn.Parameter(torch.zeros(words + 1, width))
        same = width == shape["d_model"]
        self.projection = None if same else nn.Linear(width, shape["d_model"], bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) → (B, L, D)."""
        base = ids - A
        is_base = (ids >= A) & (ids <= T)
        number, whole, first, total = base, is_base, 0, 0
        for length in range(2, self.order + 1):
            number = base + 4 * F.pad(number, (1, 0))[:, :-1]
            whole = is_base & F.pad(whole, (1, 0))[:, :-1]
            rows = torch.where(whole, number + first, len(self.weight) - 1)
            total = total + F.embedding(rows, self.weight) * whole[..., None]
            first += 4**length
        return total if self.projection is None else self.projection(total)


class GenomeLMPreTrainedModel(PreTrainedModel):
    """What transformers asks of a model."""

    config_class = GenomeLMConfig
    base_model_prefix = "backbone"
    _no_split_modules = ("Block",)
    _keys_to_ignore_on_load_unexpected = [r"score\."]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        # Training from nothing is genome-lm's; only the heads that it knows nothing of begin here.
        if isinstance(module, nn.Linear) and module is getattr(self, "score", None):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


class GenomeLMModel(GenomeLMPreTrainedModel):
    """Token ids to hidden states, after the final norm."""

    def __init__(self, config: GenomeLMConfig) -> None:
        super().__init__(config)
        shape = config.shape
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.ngrams = NgramEmbedding(shape) if shape["ngram_order"] else None
        self.dropout = nn.Dropout(shape["embed_dropout"])
        operators = [name.strip() for name in shape["layout"].split(",")]
        self.blocks = nn.ModuleList(Block(shape, operators[n % len(operators)]) for n in range(shape["n_layer"]))
        self.norm = nn.LayerNorm(config.hidden_size, eps=shape["layer_norm_epsilon"])
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of the tokens."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace it."""
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_,
    ) -> BaseModelOutput:
        """States of each position, (B, L, D).

        Padding, on the right or on the left, changes nothing: a row begins where its mask does.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), 0 where there is padding; without it, `[PAD]` is.
            output_hidden_states: Also give the embedding and the residual stream after each block but the last.
            return_dict: False for a tuple.
        """
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{input_ids.shape[1]} tokens are more than this model takes, {self.config.max_position_embeddings}"
            )
        inside = input_ids != PAD if attention_mask is None else attention_mask.bool()
        where = torch.arange(input_ids.shape[1], device=input_ids.device)
        first = torch.where(inside.any(1), inside.int().argmax(1), 0)[:, None]
        ids = input_ids.masked_fill(~inside, PAD).gather(1, (where + first) % len(where))
        back = ((where - first) % len(where))[..., None]
        x = self.embedding(ids)
        x = self.dropout(x if self.ngrams is None else x + self.ngrams(ids))
        turned = None
        if not self.config.is_decoder:
            lengths = ((ids != PAD) * (where + 1)).amax(1, keepdim=True)
            turned = torch.where(where < lengths, lengths - 1 - where, where)[..., None]
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1] if output_hidden_states else states.pop(), turned))
        states[-1] = self.norm(states[-1])
        states = [each.take_along_dim(back, 1) for each in states]
        output = BaseModelOutput(states[-1], tuple(states) if output_hidden_states else None)
        return output.to_tuple() if return_dict is False else output


class _LanguageModel(GenomeLMPreTrainedModel):
    """A backbone, and logits by its own embedding."""

    def __init__(self, config: GenomeLMConfig) -> None:
        super().__init__(config)
        self.backbone = GenomeLMModel(config)
        self.post_init()

    def get_output_embeddings(self) -> None:
        """There is no head of its own."""

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None, **options) -> tuple[Tensor, BaseModelOutput]:
        """Of each position, (B, L, 16); and what the backbone gave."""
        output = self.backbone(input_ids, attention_mask, **{**options, "return_dict": True})
        return F.linear(output.last_hidden_state, self.backbone.embedding.weight).float(), output


class GenomeLMForCausalLM(_LanguageModel, GenerationMixin):
    """Logits of the next base. Generation reads the whole sequence at each step; genome-lm's own is faster."""

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, logits_to_keep=0, **options):
        """`labels` are the ids themselves, −100 where one does not count; the loss is in nats per base."""
        options.pop("use_cache", None)
        logits, output = self.logits(input_ids, attention_mask, **options)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        if isinstance(logits_to_keep, int):
            logits = logits[:, -logits_to_keep:] if logits_to_keep else logits
        result = CausalLMOutput(loss, logits, output.hidden_states)
        return result.to_tuple() if return_dict is False else result


class GenomeLMForMaskedLM(_LanguageModel):
    """Logits of the base at each position, of models that read both ways."""

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, **options):
        """`labels` are the ids of the hidden bases, −100 elsewhere; the loss is in nats per hidden base."""
        logits, output = self.logits(input_ids, attention_mask, **options)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        result = MaskedLMOutput(loss, logits, output.hidden_states)
        return result.to_tuple() if return_dict is False else result


class GenomeLMForSequenceClassification(GenomeLMPreTrainedModel):
    """A linear layer on pooled states."""

    def __init__(self, config: GenomeLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = GenomeLMModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, return_dict=None, **options):
        """Logits, (B, num_labels); the loss is that of `config.problem_type`."""
        output = self.backbone(input_ids, attention_mask, **{**options, "return_dict": True})
        inside = input_ids != PAD if attention_mask is None else attention_mask.bool()
        logits = self.score(_pooled(output.last_hidden_state, input_ids, inside, self.config.pool))
        loss = None
        if labels is not None:
            if self.config.problem_type == "multi_label_classification":
                loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            elif self.config.problem_type == "regression" or self.num_labels == 1:
                loss = F.mse_loss(logits.view_as(labels), labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels)
        result = SequenceClassifierOutput(loss, logits, output.hidden_states)
        return result.to_tuple() if return_dict is False else result


def _pooled(states: Tensor, ids: Tensor, inside: Tensor, pool: str) -> Tensor:
    """(B, L, D) → (B, D)."""
    if pool == "last":
        last = states.shape[1] - 1 - inside.flip(1).int().argmax(1)
        return states[torch.arange(len(states), device=states.device), last]
    if pool == "max":
        return states.masked_fill(~inside[..., None], -torch.inf).amax(1)
    counted = inside & (ids >= A) & (ids <= T) if pool == "masked" else inside
    return (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)
