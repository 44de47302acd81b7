"""Other programs' models of the same width, depth and MLP, to measure against."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.bench.original import refuse_other_models
from genome_lm.checkpoint.hyenadna import EMBEDDING, HEAD, to_theirs
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.attention import heads_of
from genome_lm.optional import require


class PeerLM(nn.Module):
    """A model of another program. A subclass has `forward`, (B, L) ids → (B, L, 16) logits.

    Attributes:
        ordered: Its parameters, in the order in which a training step reports their gradients.
    """

    ordered: list[nn.Parameter]

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy averaged over all targets, (B, L) both, from all logits at one time."""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


class MultimoleculeLM(PeerLM):
    """multimolecule's `HyenaDnaForCausalLM` with the weights of one of ours, to compute logits.

    It isn't measured in training: each activation of its filters has a frequency of its own to train.

    Raises:
        GenomeLMError: If multimolecule is not installed, or the model has another order or layout.
    """

    def __init__(self, model: HyenaLM) -> None:
        super().__init__()
        config = model.config
        refuse_other_models(config)
        theirs = require("multimolecule.models.hyenadna")
        self.model = theirs.HyenaDnaForCausalLM(
            theirs.HyenaDnaConfig(
                vocab_size=12, pad_vocab_size_multiple=8,
                hidden_size=config.d_model, intermediate_size=config.d_inner,
                num_hidden_layers=config.n_layer, max_position_embeddings=config.filter_length,
                filter_order=config.filter_order, filter_emb_dim=config.emb_dim, num_inner_mlps=config.num_inner_mlps,
                activation_freq=config.sine_frequency, embedding_dropout=config.embed_dropout,
            )
        )  # fmt: skip
        state = to_theirs(model, "")
        state[HEAD] = state[EMBEDDING]
        missing = self.model.load_state_dict(
            {_renamed(key): t for key, t in state.items()}, strict=False
        ).missing_keys
        # The activations of a filter share one frequency, which has a key for each of them.
        if other := [key for key in missing if not key.endswith(".freq")]:
            raise GenomeLMError(f"multimolecule's model has another form than version 0.2's: it also has {other[0]}")
        self.ordered = [*self.parameters()]

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position: (B, L) ids → (B, L, 16)."""
        logits: Tensor = self.model(ids).logits
        return logits


def _renamed(key: str) -> str:
    """The original's name of a tensor → multimolecule's."""
    return key.replace("backbone.ln_f.", "model.final_layer_norm.").replace("backbone.", "model.")


class PortLM(PeerLM):
    """A folder for transformers with a causal language model, with its own weights and, if it has any, its own code.

    The code is run. Its tokens must be HyenaDNA's, of which A, C, G and T are 7 to 10. Nothing is downloaded.

    Raises:
        GenomeLMError: If transformers is not installed, can't open the folder, or its model is of another size.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        super().__init__()
        if not (path / "config.json").is_file():
            raise GenomeLMError(f"{path}: no folder for transformers: it has no config.json")
        transformers = require("transformers")
        try:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                str(path), trust_remote_code=True, local_files_only=True, dtype=torch.float32
            )
        except Exception as error:  # whatever the folder's own code raises
            reason = str(error).strip().partition("\n")[0]
            raise GenomeLMError(f"{path}: transformers can't open it: {type(error).__name__}: {reason}") from error
        self._check_size(path, config)
        self.ordered = [*self.parameters()]

    def _check_size(self, path: Path, config: ModelConfig) -> None:
        theirs = self.model.config
        wanted = {"width": config.d_model, "number of blocks": config.n_layer}
        names = {"width": ("hidden_size", "d_model"), "number of blocks": ("num_hidden_layers", "n_layer")}
        for what, value in wanted.items():
            size = next((getattr(theirs, name) for name in names[what] if hasattr(theirs, name)), None)
            if size != value:
                raise GenomeLMError(
                    f"{path}: its {what} is {size}, and {value} here: choose --preset and --layers of the same size"
                )

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position: (B, L) ids → (B, L, vocabulary)."""
        logits: Tensor = self.model(ids).logits
        return logits


class TransformerLM(PeerLM):
    """A plain transformer: pre-norm blocks of `F.scaled_dot_product_attention`, causal, and an MLP; a tied head.

    It has no embedding of positions, which would cost it more.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(EMBEDDING_ROWS, config.d_model)
        self.blocks = nn.ModuleList(_TransformerBlock(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model)
        self.ordered = [*self.parameters()]

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position: (B, L) ids → (B, L, 16)."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class _TransformerBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model
        self.heads = heads_of(config)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, config.d_inner), nn.Linear(config.d_inner, width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.in_proj(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = z.transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out_proj(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
