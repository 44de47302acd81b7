"""A trained model, as users of the library call it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import VOCABULARY
from genome_lm.checkpoint import open_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.device import choose_device
from genome_lm.errors import GenomeLMError, naming
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import Variant, VariantScores
from genome_lm.inference.batches import BATCH_TOKENS, BatchSize, encode_all, name_of, padded_batches
from genome_lm.inference.embedding import FlankedSequence, Floats, Recipe, embed_flanked
from genome_lm.inference.generation import Generated, check_memory, check_room, generate
from genome_lm.inference.heads import head_outputs, predictions
from genome_lm.inference.one_hot import OneHot, Output
from genome_lm.inference.readouts import Readouts
from genome_lm.inference.sampling import Sampling
from genome_lm.inference.variants import Layout, score_variants
from genome_lm.kernels import Precision
from genome_lm.model import Head, HyenaBackbone, HyenaLM
from genome_lm.model.likelihood import Alphabet, model_likelihoods
from genome_lm.model.room import fitting_positions
from genome_lm.strands import EmbeddedStrands, Strands
from genome_lm.text import html_table


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    revision: str | None = None,
    condition: str | None = None,
    head: str | None = None,
    precision: Precision = "float32",
) -> "GenomeLM":
    """Load a checkpoint of any form; nothing that is in it can run code.

    Args:
        path: A native folder, an original HyenaDNA .ckpt, a folder of the Hugging Face port, the name of a model that
            comes with this package such as "bacteria-900k", or an id on the Hugging Face hub such as
            "LongSafari/hyenadna-small-32k-seqlen-hf"; see `genome_lm.checkpoint.open_checkpoint`.
        device: Where to compute: "cpu", "cuda", "cuda:N", "mps", or "auto" (the default), a CUDA GPU if there is one.
        revision: For the hub: commit, tag or branch.
        condition: What all sequences are read under, one of the model's `config.conditions`; None for that of a tuned
            model's head, if it has one.
        head: Of a model that was tuned with several, the name of the one that predicts.
        precision: Of the products of projections and MLPs on a CPU: "bf16" or "int8" are quicker and less exact
            (docs/performance.md). Where the CPU has no instructions for them, "float32" is used, with a warning.

    Returns:
        The model, in eval mode.

    Raises:
        GenomeLMError: See `open_checkpoint` and `genome_lm.device.choose_device`; also if the model has no such
            condition or head, or a lower precision is asked for on another device than a CPU.
    """
    opened = open_checkpoint(path, choose_device(device), revision)
    with naming(os.fspath(path)):
        tuned_head = opened.head if head is None else opened.named_head(head)
    model = GenomeLM(opened.model, opened.provenance, tuned_head, opened.heads)
    if condition is not None:
        with naming(os.fspath(path)):
            model.condition = condition
    model.model.lower_precision(precision)
    return model


class GenomeLM:
    """A loaded HyenaDNA model and its operations: embed, score, generate, predict.

    Attributes:
        model: The language model, an nn.Module in eval mode.
        provenance: Where the weights come from.
        head: What a tuned model predicts with; None if the model was not tuned, or has several and none was named.
        head_names: Of several heads that the model was tuned with.
    """

    vocabulary: tuple[str, ...] = VOCABULARY
    """Token strings; the position is the token id."""

    def __init__(
        self,
        model: HyenaLM,
        provenance: dict[str, Any] | None = None,
        head: Head | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        self.model = model.eval()
        self.provenance = provenance or {}
        self.head = head.eval() if head is not None else None
        self.head_names = tuple(filter(None, heads or {}))
        if (any_head := head or next(iter((heads or {}).values()), None)) is not None:
            self.condition = any_head.config.condition

    def __repr__(self) -> str:
        """Such as `<GenomeLM: 436,224 parameters, 2 layers, width 128, context 1,024 bases, on cpu>`."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        shape = f"{self.config.n_layer} layers, width {self.config.d_model}"
        head = "" if self.head is None else f", tuned for {self.head.config.task}"
        context = f"context {self.config.max_length:,} bases"
        return f"<GenomeLM: {parameters:,} parameters, {shape}, {context}{head}, on {self.device}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows: dict[str, object] = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "layout": ", ".join(self.config.mixers),
            "width": self.config.d_model,
            "context, bases": self.config.max_length,
            "direction": self.config.direction.value,
            "device": self.device,
        }
        if self.head is not None:
            rows["tuned for"] = f"{self.head.config.task}: {', '.join(self.head.config.outputs)}"
        return html_table("GenomeLM", rows)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def condition(self) -> str | None:
        """What all sequences are read under, one of `config.conditions`; None for nothing. It can be set.

        Raises:
            GenomeLMError: When it is set to a name that the model does not have.
        """
        return self.model.condition

    @condition.setter
    def condition(self, name: str | None) -> None:
        self.model.condition = name

    @property
    def tuned_head(self) -> Head:
        """The head that predicts.

        Raises:
            GenomeLMError: If the model was not tuned, or was with several heads and none was named.
        """
        if self.head is not None:
            return self.head
        if self.head_names:
            shown = ", ".join(self.head_names)
            raise GenomeLMError(f"this model has the heads {shown}: name the one that predicts (--head NAME)")
        raise GenomeLMError("this model has no head: tune it first, with `genome-lm finetune`")

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

    def embed(
        self,
        sequences: Sequence[str],
        *,
        pool: str = "mean",
        layer: int | None = None,
        strand: EmbeddedStrands | None = None,
        context: int = 0,
        names: Sequence[str] | None = None,
        batch_tokens: int | None = None,
    ) -> Floats | list[Floats]:
        """Embeddings; that of a sequence does not depend on what else is in the list, nor on the size of batches.

        For whole files and genomes, with results on disk, see `genome_lm.inference.embed_to_file`.

        Args:
            sequences: n DNA sequences of any lengths up to the model's context, in either case.
            pool: How the hidden states of a sequence become one vector: their "mean", "max", the "last" one, which
                alone has seen the whole sequence in a causal model; "bins:N" for the means of N bins of equal
                size, "none" to keep all.
            layer: None for the states after the final norm; k for the residual stream after block k (0: embedding).
                See `embed_layers` for several in one pass.
            strand: "forward"; "both" averages with the reverse complement, "concat" puts the two one after the other;
                bins and bases are matched base by base. None for "both" of a pooled model, else "forward".
            context: So many bases at the start of each sequence (and at its end, if both strands are embedded or the
                model reads both ways) are seen by the model, but not pooled.
            names: What errors call the sequences.
            batch_tokens: Positions in a batch; None for as many as pay off and fit. Batches that don't fit after all
                are halved.

        Returns:
            With d = d_model (twice that for "concat"): (n, d) float32, (n, N, d) for bins, without pooling a list of
            n arrays, (L, d).

        Raises:
            GenomeLMError: On a sequence that is empty, too long, not DNA, or nothing but context; an unknown pool or
                strand; a layer that is not there; or if memory does not do for one sequence alone.
        """
        options = {"strand": strand, "context": context, "names": names, "batch_tokens": batch_tokens}
        return self.embed_layers(sequences, [layer], pool=pool, **options)[layer]  # type: ignore[arg-type]

    def embed_layers(
        self,
        sequences: Sequence[str],
        layers: Sequence[int | None],
        *,
        pool: str = "mean",
        strand: EmbeddedStrands | None = None,
        context: int = 0,
        names: Sequence[str] | None = None,
        batch_tokens: int | None = None,
    ) -> dict[int | None, Floats | list[Floats]]:
        """Embeddings of several layers in one pass: `embed`'s arguments, and of each layer what `embed` returns."""
        recipe = Recipe.of(pool, layers, strand, self.config)
        tokens = encode_all(sequences, names, self.config.max_length)
        after = recipe.context_after(context, self.config.direction)
        flanked = [FlankedSequence(ids, context, after) for ids in tokens]
        for number, sequence in enumerate(flanked):
            if context < 0 or sequence.bases < 1:
                left = f"a context of {context} leaves nothing of {len(sequence.tokens)} bases"
                raise GenomeLMError(f"{name_of(number, names)}: {left}")
        size = BatchSize.automatic(self.config, self.device) if batch_tokens is None else BatchSize(batch_tokens)
        embedded = embed_flanked(self.backbone, flanked, recipe, size)
        if recipe.pooling.kind == "none":
            return dict(zip(layers, embedded, strict=True))
        empty = np.empty((0, *recipe.shape(self.config)), dtype=np.float32)
        stacked = (np.stack(rows) if rows else empty for rows in embedded)
        return dict(zip(layers, stacked, strict=True))

    @torch.no_grad()
    def log_likelihood(
        self,
        sequences: Sequence[str],
        *,
        alphabet: Alphabet = "all",
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
            nothing predicts, and for bases other than A, C, G and T. Sum up with `numpy.nansum`. Of models that read
            both ways it is the pseudo-likelihood: ln p(base i | the others but those hidden with it), see
            `genome_lm.model.likelihood.HIDDEN_SETS`.

        Raises:
            GenomeLMError: On a sequence that is empty, too long or not DNA, or an unknown alphabet.
        """
        if alphabet not in get_args(Alphabet):
            raise GenomeLMError(f"alphabet {alphabet!r}: use all or acgt")
        tokens = encode_all(sequences, names, self.config.max_length)
        likelihoods: list[Floats] = [np.empty(0, dtype=np.float32)] * len(tokens)
        batch_tokens = fitting_positions(self.backbone, batch_tokens, max(map(len, tokens), default=1))
        for numbers, ids, lengths in padded_batches(tokens, batch_tokens, self.device, self.config.direction):
            rows = model_likelihoods(self.model, ids, alphabet).float().cpu().numpy()
            for number, row, length in zip(numbers, rows, lengths, strict=True):
                likelihoods[number] = row[:length].copy()
        return likelihoods

    def generate(
        self,
        prompts: Sequence[str],
        length: int,
        *,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        names: Sequence[str] | None = None,
        batch: int | None = None,
    ) -> list[Generated]:
        """Continue prompts base by base, with A, C, G and T alone.

        Each base is drawn from the logits of the full forward, to rounding; the cost for L bases is O(L log² L). A
        sequence is a function of its prompt, the seed, and its numbers of prompt and sample; on the size of batches
        and on the other prompts it depends by rounding alone.

        Args:
            prompts: n DNA sequences of any lengths, not empty, in either case; letters other than A, C, G and T are
                read as N.
            length: Bases of each sequence; prompt and new bases together are at most the model's context.
            samples: Sequences for each prompt.
            temperature: Divides the logits; 0 always takes the likeliest base.
            top_k: Draw from the k likeliest bases only.
            top_p: Draw from the likeliest bases only, as many as it takes for their probabilities to reach this.
            seed: Of the random numbers.
            names: What errors call the prompts.
            batch: Sequences at one time; as many as 1 GiB of states allows if None.

        Returns:
            n · samples of `Generated`: the new bases and their log-likelihoods, prompt by prompt.

        Raises:
            GenomeLMError: On a prompt that is empty or not DNA, no room for `length` bases after it within the
                context, or an option out of range.
        """
        for name, value in (("length", length), ("samples", samples), ("batch", batch)):
            if value is not None and value < 1:
                raise GenomeLMError(f"{name} {value}: must be at least 1")
        sampling = Sampling(temperature, top_k, top_p, seed)
        tokens = encode_all(prompts, names, max(map(len, prompts), default=0))
        for number, prompt in enumerate(tokens):
            check_room(self.config.max_length, len(prompt), length, name_of(number, names))
        check_memory(len(tokens), length, samples)
        return generate(self.model, tokens, length, samples, sampling, batch) if tokens else []

    def score_variants(
        self,
        store: GenomeStore,
        variants: Sequence[tuple[str, int, str, str]],
        *,
        context: int | None = None,
        flank: int | None = None,
        stride: int | None = None,
        strand: Strands = "both",
        batch_tokens: int = BATCH_TOKENS,
        readouts: Sequence[str] = ("llr",),
        layer: int | None = None,
    ) -> VariantScores:
        """Log-likelihood ratios of variants, reference to alternative; see `genome_lm.inference.VariantScores`.

        Args:
            store: The genome.
            variants: n tuples contig, start (0-based: VCF's POS − 1), REF, ALT.
            context: Bases before each variant, at least; by default what the model can take.
            flank: Bases that are scored, from the variant's first on; 1,024 by default, or an eighth of the model's
                context if that is less.
            stride: Windows start at multiples of this, and variants in one share the pass over the reference; by
                default an eighth of the model's context, 16,384 at most.
            strand: "both", "forward" or "reverse".
            batch_tokens: Positions in a batch.
            readouts: Further values of the same pass, keys of `genome_lm.genome.variants.READOUTS`: "delta", "l2",
                "cosine", "entropy".
            layer: Where "l2" and "cosine" are taken; see `genome_lm.inference.readouts.Readouts`.

        Returns:
            n scores; a variant that can't be scored carries a reason.

        Raises:
            GenomeLMError: If context, flank and stride together exceed the model's context, or on an unknown strand,
                readout or layer.
        """
        layout = Layout.of(self.config, context, flank, stride)
        alleles = [Variant(*variant) for variant in variants]
        wanted = Readouts.of(readouts, layer, self.config)
        options: dict[str, Any] = {"strand": strand, "batch_tokens": batch_tokens, "readouts": wanted}
        return score_variants(self.model, store, alleles, layout, **options)

    @torch.no_grad()
    def predict(
        self,
        sequences: Sequence[str],
        *,
        seconds: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> list[Floats]:
        """What a tuned model predicts; that of a sequence does not depend on what else is in the list.

        Args:
            sequences: n DNA sequences of any lengths up to the model's context (less the soft prompt).
            seconds: The second sequences of n pairs, where the model was tuned to pairs.
            names: What errors call the sequences.
            batch_tokens: Positions in a batch.

        Returns:
            n arrays, (outputs,) float32, or (L, outputs) with an output at each position, (bins, outputs) of tracks:
            probabilities of `head.config.outputs`, or values in the units that the head was trained on.

        Raises:
            GenomeLMError: If the model was not tuned, or was tuned to pairs and gets none, or the reverse; on a
                sequence that is empty, too long, not DNA, or, with tracks, not cut into bins.
        """
        head = self.tuned_head
        most = self.config.max_length - head.config.prompt
        tokens = encode_all(sequences, names, most)
        if (head.config.pair != "none") != (seconds is not None) or len(seconds or sequences) != len(sequences):
            raise GenomeLMError(
                "this model reads pairs: give as many second sequences"
                if head.config.pair != "none"
                else "this model reads single sequences, no pairs"
            )
        if head.config.bins is not None:
            for number, ids in enumerate(tokens):
                head.config.bins.check_length(name_of(number, names), len(ids))
        others = encode_all(seconds or (), None if names is None else [f"{name}, second" for name in names], most)
        return predictions(head, head_outputs(self.backbone, head, tokens, batch_tokens, others))

    def one_hot(self, output: Output = "likelihood") -> OneHot:
        """The model as a function of one-hot sequences, (B, 4, L), for libraries of attribution and design.

        Args:
            output: "likelihood", "states" or "head"; see `genome_lm.inference.one_hot.OneHot`.

        Returns:
            An nn.Module in eval mode that shares the model's weights.

        Raises:
            GenomeLMError: On an unknown output, or "head" if the model was not tuned.
        """
        return OneHot(self.model, output, self.tuned_head if output == "head" and self.head_names else self.head)
