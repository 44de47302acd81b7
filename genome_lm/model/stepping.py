"""A model read one token at a time: the logits of the full forward, at a small cost per token."""

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.alphabet import PAD
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import for_each, fused_steps, steps
from genome_lm.model.backbone import Block
from genome_lm.model.language_model import HyenaLM
from genome_lm.model.mixer import MixerSteps, Prompts
from genome_lm.model.prefill import pieces_for

REPLAYED = frozenset({"cuda"})
"""Kinds of devices on which steps are replayed."""


class Stepper:
    """Reads prompts at once, then tokens one by one, for a batch; each call gives the logits of the next token.

    The results are those of `model(ids)` at the last position, to rounding. What reading costs, and what is kept, is
    the mixers' to say (`genome_lm.model.mixer.MixerSteps`). `prefill` may be called again for another batch. Make a
    new stepper when the parameters have changed.

    Attributes:
        replayed: Whether `read` can be captured as a CUDA graph and replayed: on a GPU, if all mixers can.
        operations: `genome_lm.kernels.steps`, or what takes its place on this device.

    Args:
        model: The language model, taken as in eval mode.
        length: Tokens that can be read one by one after the prompt.

    Raises:
        GenomeLMError: If the model sees what follows, or the length is below 1 or leaves no room for a prompt.
    """

    @torch.inference_mode()
    def __init__(self, model: HyenaLM, length: int) -> None:
        self.span = model.config.filter_length
        if model.config.direction.sees_following:
            raise GenomeLMError("this model reads in both directions; only causal models can be read token by token")
        if not 1 <= length < self.span:
            raise GenomeLMError(
                f"length {length:,}: this model can read 1 to {self.span - 1:,} tokens after a prompt"
            )
        self.length = length
        self._model = model
        self._blocks = [*model.backbone.blocks]
        self._states, self._layers = _states_of(self._blocks, length)
        self.replayed = self.device.type in REPLAYED and all(state.can_replay for state in self._states)
        self._fused = fused_steps(model.backbone.embedding.weight) if self.replayed else None
        self.operations = self._fused or steps

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.backbone.embedding.weight.device

    @property
    def width(self) -> int:
        """The model's width."""
        return self._model.config.d_model

    @torch.inference_mode()
    def prefill(self, ids: Tensor, lengths: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Read the prompts, and begin a batch.

        Args:
            ids: (B, P) integer token ids, padded on the right.
            lengths: (B,) tokens of each prompt, 1 to P; P for all if None.
            rows: (R,) which prompt each sequence of the batch goes on from; one sequence per prompt if None.

        Returns:
            (R, 16) logits of the token after each prompt.

        Raises:
            GenomeLMError: If a prompt is empty, or there is no room for it and `length` more tokens.
        """
        batch, given = ids.shape
        lengths = torch.full((batch,), given) if lengths is None else lengths.cpu()
        rows = torch.arange(batch) if rows is None else rows.cpu()
        backbone = self._model.backbone
        if backbone.ahead + given + self.length > self.span:
            raise GenomeLMError(
                f"a prompt of {given:,} tokens and {self.length:,} more are longer than this model's {self.span:,}"
            )
        if int(lengths.min()) < 1 or int(lengths.max()) > given:
            raise GenomeLMError(f"lengths of prompts must be 1 to {given:,}")
        self._recent = _last_tokens(ids, lengths, rows, backbone.config.ngram_reach)
        x, lengths = backbone.conditioned(backbone.embedded(ids)), backbone.ahead + lengths
        for state in self._states:
            state.start(Prompts(lengths, rows, self.replayed, self._fused), x)
        for block, (state, layer) in zip(self._blocks, self._layers, strict=True):
            state.prefill(layer, block.norm1(x), x)
            _prefill_mlp(block, x)
        for state in self._states:
            state.begin()
        self._position = 0
        ends = x[rows.to(x.device), lengths[rows].to(x.device) - 1]
        return F.linear(backbone.norm(ends), backbone.embedding.weight)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Read a token of each sequence: (R,) integer token ids → (R, 16) logits of the token after it.

        Raises:
            GenomeLMError: If `length` tokens have been read.
        """
        if self._position == self.length:
            raise GenomeLMError(f"{self.length:,} tokens have been read; make the stepper for more")
        logits = self.read(ids)
        self.settle()
        return logits

    def read(self, ids: Tensor) -> Tensor:
        """The part of `step` that is the same for every token; in inference mode."""
        backbone, operations = self._model.backbone, self.operations
        for state in self._states:
            state.turn()
        x = self._embedded(ids)
        for block, (state, layer) in zip(self._blocks, self._layers, strict=True):
            x, fc1, fc2 = state.step(layer, x, block.norm1), block.mlp.fc1, block.mlp.fc2
            hidden = operations.normed_linear(x, block.norm2, fc1.weight, fc1.bias, gelu=True)
            x = operations.add_linear(x, hidden, fc2.weight, fc2.bias)
        for state in self._states:
            state.advance()
        logits: Tensor = operations.normed_linear(x, backbone.norm, backbone.embedding.weight, None)
        return logits

    def settle(self) -> None:
        """The part of `step` that depends on how many tokens were read."""
        for state in self._states:
            state.settle()
        self._position += 1

    def _embedded(self, ids: Tensor) -> Tensor:
        """The embeddings of the next tokens, (R,) → (R, D), whose n-grams hold the tokens before them."""
        backbone = self._model.backbone
        if backbone.ngrams is None:
            return F.embedding(ids, backbone.embedding.weight)
        tokens = torch.cat([self._recent, ids[:, None]], dim=1)
        self._recent.copy_(tokens[:, 1:])
        return backbone.embedded(tokens)[:, -1].contiguous()


def _last_tokens(ids: Tensor, lengths: Tensor, rows: Tensor, count: int) -> Tensor:
    """The last tokens of each prompt, padding before those of a shorter one: (R, count)."""
    places = lengths[rows, None] + torch.arange(count)
    return F.pad(ids, (count, 0), value=PAD)[rows[:, None].to(ids.device), places.to(ids.device)]


def _states_of(blocks: list[Block], length: int) -> tuple[list[MixerSteps], list[tuple[MixerSteps, int]]]:
    """One state per operator, and for each block its operator's state and its number among that one's layers."""
    kinds = list(dict.fromkeys(type(block.mixer) for block in blocks))
    mixers = {kind: [block.mixer for block in blocks if type(block.mixer) is kind] for kind in kinds}
    states = {kind: kind.steps(mixers[kind], length) for kind in kinds}
    numbers = {id(mixer): number for group in mixers.values() for number, mixer in enumerate(group)}
    layers = [(states[type(block.mixer)], numbers[id(block.mixer)]) for block in blocks]
    return list(states.values()), layers


def _prefill_mlp(block: Block, x: Tensor) -> None:
    """The MLP sub-block over the prompts, added to x, (B, P, D)."""

    def add(chunk: Tensor) -> None:
        chunk += block.mlp(block.norm2(chunk))

    for_each(x.device, add, x.split(pieces_for(x.device).positions_of(x), dim=1))
