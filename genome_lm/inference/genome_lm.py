"""A trained model as its users hold it."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import NUCLEOTIDES, VOCABULARY, reverse_complement
from genome_lm.checkpoint import open_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.inference.batches import encode_all, padded_batches
from genome_lm.inference.heads import head_outputs, predictions
from genome_lm.inference.pooling import POOLS, Pool, pool_states
from genome_lm.model import Head, HyenaBackbone, HyenaLM

Strand = Literal["forward", "both"]
Floats = npt.NDArray[np.float32]
BATCH_TOKENS = 32_768
"""Positions of a batch, padding included, unless another number is asked for."""


def load(
    path: str | os.PathLike[str], device: str | torch.device | None = None, revision: str | None = None
) -> "GenomeLM":
    """Load a checkpoint of any form; nothing that is in it can run code.

    Args:
        path: A native folder, an original HyenaDNA .ckpt, a folder of the Hugging Face port, or an id on the Hugging
            Face hub such as "LongSafari/hyenadna-small-32k-seqlen-hf"; see `genome_lm.checkpoint.open_checkpoint`.
        device: Where to compute; a GPU if there is one, by default.
        revision: For the hub: commit, tag or branch.

    Returns:
        The model, in eval mode.

    Raises:
        GenomeLMError: See `open_checkpoint`.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_checkpoint(path, chosen, revision)
    return GenomeLM(opened.model, opened.provenance, opened.head)


class GenomeLM:
    """A HyenaDNA model with what one does with it.

    Attributes:
        model: The language model, an nn.Module in eval mode.
        provenance: Where the weights come from.
        head: What a tuned model predicts with; None if the model was not tuned.
    """

    vocabulary: tuple[str, ...] = VOCABULARY
    """Token strings; the position is the token id."""

    def __init__(self, model: HyenaLM, provenance: dict[str, Any] | None = None, head: Head | None = None) -> None:
        self.model = model.eval()
        self.provenance = provenance or {}
        self.head = head.eval() if head is not None else None

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def backbone(self) -> HyenaBackbone:
        """The nn.Module from token ids (B, L) to hidden states after the final norm (B, L, d_model)."""
        return self.model.backbone

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.embedding.weight.device

    @torch.no_grad()
    def logits(self, ids: Tensor | npt.ArrayLike) -> Tensor:
        """Logits of the token after each position: (B, L) token ids → (B, L, 16) float32."""
        return self.model(torch.as_tensor(ids, device=self.device)).float()

    @torch.no_grad()
    def embed(
        self,
        sequences: Sequence[str],
        *,
        pool: Pool = "mean",
        layer: int | None = None,
        strand: Strand = "forward",
        names: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Floats | list[Floats]:
        """Embeddings; that of a sequence does not depend on what else is in the list, nor on the size of batches.

        Args:
            sequences: n DNA sequences of any lengths up to the model's context, in either case.
            pool: How the hidden states of a sequence become one vector: their "mean", "max", the "last" one, which
                alone has seen the whole sequence (the model is causal), or "none" to keep all.
            layer: None for the states after the final norm; k for the residual stream after block k (0: embedding).
            strand: "both" averages with the reverse complement; without pooling, base by base.
            names: What errors call the sequences.
            batch_tokens: Positions in a batch.

        Returns:
            (n, d_model) float32; without pooling a list of n arrays, (L, d_model).

        Raises:
            GenomeLMError: On a sequence that is empty, too long or not DNA, an unknown pool or strand, or a layer
                that is not there.
        """
        if pool not in POOLS:
            raise GenomeLMError(f"pool {pool!r}: use {', '.join(POOLS)}")
        if strand not in ("forward", "both"):
            raise GenomeLMError(f"strand {strand!r}: use forward or both")
        tokens = encode_all(sequences, names, self.config.max_length)
        embedded = self._embed(tokens, pool, layer, batch_tokens)
        if strand == "both":
            reverse = self._embed([reverse_complement(ids) for ids in tokens], pool, layer, batch_tokens)
            if pool == "none":
                reverse = [states[::-1] for states in reverse]
            embedded = [np.asarray((one + other) / 2) for one, other in zip(embedded, reverse, strict=True)]
        if pool == "none":
            return embedded
        return np.stack(embedded) if embedded else np.empty((0, self.config.d_model), dtype=np.float32)

    def _embed(self, tokens: list[Codes], pool: Pool, layer: int | None, batch_tokens: int) -> list[Floats]:
        embedded: list[Floats] = [np.empty(0, dtype=np.float32)] * len(tokens)
        for numbers, ids, lengths in padded_batches(tokens, batch_tokens, self.device):
            states = self.backbone(ids, layer).float()
            for number, pooled in zip(numbers, pool_states(states, lengths, pool), strict=True):
                embedded[number] = pooled.cpu().numpy()
        return embedded

    @torch.no_grad()
    def log_likelihood(
        self,
        sequences: Sequence[str],
        *,
        alphabet: Literal["all", "acgt"] = "all",
        names: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> list[Floats]:
        """Log-probability of each base given those before it, in nats.

        Args:
            sequences: n DNA sequences of any lengths up to the model's context.
            alphabet: "all" normalises over all 16 rows of the head, as in training; "acgt" over the four bases.
            names: What errors call the sequences.
            batch_tokens: Positions in a batch.

        Returns:
            n arrays, (L,) float32; entry i is ln p(base i | bases before i). It is NaN for the first base, which
            nothing predicts, and for bases other than A, C, G and T. Sum up with `numpy.nansum`.

        Raises:
            GenomeLMError: On a sequence that is empty, too long or not DNA, or an unknown alphabet.
        """
        if alphabet not in ("all", "acgt"):
            raise GenomeLMError(f"alphabet {alphabet!r}: use all or acgt")
        tokens = encode_all(sequences, names, self.config.max_length)
        likelihoods: list[Floats] = [np.empty(0, dtype=np.float32)] * len(tokens)
        low, high = NUCLEOTIDES[0], NUCLEOTIDES[-1]
        for numbers, ids, lengths in padded_batches(tokens, batch_tokens, self.device):
            logits = self.model(ids).float()[:, :-1]
            over = logits if alphabet == "all" else logits[..., low : high + 1]
            targets = ids[:, 1:]
            chosen = logits.gather(-1, targets[..., None])[..., 0] - over.logsumexp(-1)
            chosen = chosen.masked_fill((targets < low) | (targets > high), torch.nan).cpu().numpy()
            for row, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
                likelihoods[number] = np.concatenate([[np.float32(np.nan)], chosen[row, : length - 1]])
        return likelihoods

    @torch.no_grad()
    def predict(
        self, sequences: Sequence[str], *, names: Sequence[str] | None = None, batch_tokens: int = BATCH_TOKENS
    ) -> list[Floats]:
        """What a tuned model predicts; that of a sequence does not depend on what else is in the list.

        Args:
            sequences: n DNA sequences of any lengths up to the model's context (less the soft prompt).
            names: What errors call the sequences.
            batch_tokens: Positions in a batch.

        Returns:
            n arrays, (outputs,) float32, or (L, outputs) with an output at each position: probabilities of
            `head.config.outputs`, or values in the units that the head was trained on.

        Raises:
            GenomeLMError: If the model was not tuned, or on a sequence that is empty, too long or not DNA.
        """
        if self.head is None:
            raise GenomeLMError("this model has no head: tune it first, with `genome-lm finetune`")
        most = self.config.max_length - self.head.config.prompt
        tokens = encode_all(sequences, names, most)
        return predictions(self.head, head_outputs(self.backbone, self.head, tokens, batch_tokens))
