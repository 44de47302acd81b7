"""A model as a function of one-hot sequences, as libraries of attribution and design take it."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import EMBEDDING_ROWS, MASK, NUCLEOTIDES, A, N, T
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HyenaLM
from genome_lm.model.likelihood import HIDDEN_SETS, base_table, hidden_sets

Output = Literal["likelihood", "states", "head"]
_FOUR = slice(A, T + 1)


class OneHot(nn.Module):
    """From one-hot sequences to what a model gives, differentiable in them.

    The rows of a sequence are A, C, G and T. A column of zeros is an N. Other columns are weights of the four bases;
    what they lack to 1 is that of N. The embedding is linear in them, and that of an n-gram has the product of the
    weights of its bases. So a one-hot sequence gives exactly what its token ids give.

    Args:
        model: In eval mode. It shares its weights with this module.
        output: "likelihood": ln p of the sequence in nats, the sum over its bases given those before them, (B, 1).
            Each base's ln p is weighted by its own column; nothing predicts the first base. Of a model that reads
            both ways it is the pseudo-likelihood (`genome_lm.model.likelihood.hidden_likelihoods`). "states": hidden
            states after the final norm, (B, L, state_width). "head": outputs of the head before softmax, sigmoid or
            scaling, (B, outputs), or (B, L, outputs) at each position.
        head: Of a tuned model.

    Raises:
        GenomeLMError: On an unknown output, or "head" without a head.
    """

    def __init__(self, model: HyenaLM, output: Output = "likelihood", head: Head | None = None) -> None:
        super().__init__()
        if output not in get_args(Output):
            raise GenomeLMError(f"output {output!r}: use {', '.join(get_args(Output))}")
        if output == "head" and head is None:
            raise GenomeLMError("output head: this model was not tuned; use likelihood or states")
        if output == "head" and head is not None and head.config.pair != "none":
            raise GenomeLMError("output head: this model reads pairs of sequences; use likelihood or states")
        self.model, self.head, self.output = model, head if output == "head" else None, output
        # Libraries put a module back into the mode that it says of itself, with all in it.
        self.train(model.training)

    def forward(self, one_hot: Tensor) -> Tensor:
        """One-hot sequences, (B, 4, L) of any number type, to the output.

        Raises:
            GenomeLMError: If they have another shape, or are longer than the model's context.
        """
        if one_hot.ndim != 3 or one_hot.shape[1] != len(NUCLEOTIDES):
            raise GenomeLMError(f"one-hot sequences of shape {tuple(one_hot.shape)}: (B, 4, L) is needed")
        rows = _rows(one_hot.to(self.model.backbone.embedding.weight.dtype))
        if self.output == "states":
            return self.model.backbone(rows)
        if self.head is None:
            return self._likelihood(rows)[:, None]
        outputs = self._head_outputs(self.head, rows)
        if not self.head.reads_other_strand:
            return outputs
        reverse = self._head_outputs(self.head, _rows(one_hot.to(rows.dtype).flip(1, 2)))
        return self.head.mean_of_strands(outputs, reverse.flip(1) if self.head.config.per_position else reverse)

    def _head_outputs(self, head: Head, rows: Tensor) -> Tensor:
        lengths = torch.full((len(rows),), rows.shape[1], device=rows.device)
        outputs: Tensor = head(self.model.backbone, rows, lengths)
        return outputs

    def _likelihood(self, rows: Tensor) -> Tensor:
        """ln p of sequences, (B, L, 16) → (B,)."""
        bases = rows[..., _FOUR]
        if not self.model.config.direction.sees_following:
            # Nothing predicts the first base; what the last position predicts is not there.
            return (base_table(self.model(rows))[:, 1:-1] * bases[:, 1:]).sum((1, 2))
        to_mask = torch.eye(EMBEDDING_ROWS, dtype=rows.dtype, device=rows.device)
        to_mask[_FOUR] = to_mask[MASK].clone()
        of_place = torch.from_numpy(hidden_sets(rows.shape[1])).to(rows.device)
        total, hidden = rows.new_zeros(len(rows)), rows @ to_mask
        for number in range(HIDDEN_SETS):
            is_hidden = (of_place == number)[:, None]
            table = self.model(torch.where(is_hidden, hidden, rows)).log_softmax(-1)[..., _FOUR]
            total = total + (table * bases * is_hidden).sum((1, 2))
        return total


def _rows(one_hot: Tensor) -> Tensor:
    """One-hot sequences as weights of the tokens: (B, 4, L) → (B, L, 16)."""
    rows = F.pad(one_hot.mT, (A, EMBEDDING_ROWS - T - 1))
    of_n = F.one_hot(torch.tensor(N, device=rows.device), EMBEDDING_ROWS)
    return rows + (1 - rows.sum(-1, keepdim=True)) * of_n
