"""What users do with a checkpoint on a GPU: generate, embed, score, predict, and run out of memory."""

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import decode
from genome_lm.checkpoint import save_checkpoint
from genome_lm.gpukit.expected import Expected
from genome_lm.gpukit.kit import Case, Kit, needs_gpu
from genome_lm.gpukit.stages.model import expectations
from genome_lm.inference import GenomeLM, load
from genome_lm.model import Head, HeadConfig
from genome_lm.strands import EmbeddedStrands

_BOUND = 2e-3
"""Largest relative error allowed in float32."""
_HEADROOM = 128 << 20
"""Bytes that may still be taken when memory is made to run out."""


def run(kit: Kit) -> None:
    """Each verb against float64 on the CPU."""
    expected = expectations(kit)
    torch.manual_seed(0)
    head = Head(HeadConfig("classification", ("a", "b", "c")), expected.model.config)
    folder = save_checkpoint(kit.folder / "checkpoint", expected.model, head=head)
    model, exact = load(folder, kit.device), load(folder, "cpu")
    for part in (exact.model, exact.head):
        assert part is not None
        part.double()
    sequences = _sequences(expected)
    with kit.case("generate", length=kit.form.generated) as case:
        _generate(case, model, expected)
    strands: tuple[EmbeddedStrands, ...] = "forward", "both"
    for strand in strands:
        with kit.case("embed", strand=strand) as case:
            vectors = [np.asarray(each.embed(sequences, strand=strand)) for each in (model, exact)]
            case.bounded("error", _relative(*vectors), _BOUND)
    with kit.case("score") as case:
        length = min(expected.lengths)
        of_length = expected.lengths[length]
        likelihoods = model.log_likelihood([_letters(of_length.ids[0, :-1])])[0]
        predicted = of_length.positions + 1
        inside = predicted < length
        given, wanted = likelihoods[predicted[inside].numpy()], of_length.log_likelihoods[inside].numpy()
        case.bounded("error", _relative(given, wanted), _BOUND)
    with kit.case("head") as case:
        outputs = [np.stack(each.predict(sequences)) for each in (model, exact)]
        case.bounded("error", _relative(*outputs), _BOUND)
    with kit.case("out of memory") as case:
        needs_gpu(kit)
        _out_of_memory(case, model, sequences)


def _sequences(expected: Expected) -> list[str]:
    """Sequences of many lengths."""
    letters = _letters(expected.lengths[max(expected.lengths)].ids[0])
    return [letters[: 20 + 37 * number] for number in range(12) if 20 + 37 * number <= len(letters)]


def _letters(ids: torch.Tensor) -> str:
    return decode(ids.numpy().astype(np.uint8))


def _generate(case: Case, model: GenomeLM, expected: Expected) -> None:
    """Greedy continuations are those of float64, and likelihoods those of a full forward pass."""
    prompts, want = ([_letters(ids) for ids in rows] for rows in (expected.prompts, expected.continuations))
    case.demand("there are clear continuations", bool(prompts))
    generated = model.generate(prompts, len(want[0]), temperature=0)
    case.demand("they are those of float64", [one.sequence for one in generated] == want)
    for one in generated:
        whole = model.log_likelihood([prompts[one.prompt] + one.sequence])[0][len(prompts[one.prompt]) :]
        case.bounded(f"log-likelihoods of {one.prompt}", _relative(one.log_likelihoods, whole), _BOUND)


def _out_of_memory(case: Case, model: GenomeLM, sequences: list[str]) -> None:
    """With little memory left, batches shrink and the embeddings stay what they are."""
    many = sequences * 40
    before = model.embed(many, batch_tokens=1 << 20)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(model.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + _HEADROOM) / total)
    failures = torch.cuda.memory_stats()["num_ooms"]
    try:
        after = model.embed(many, batch_tokens=1 << 20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    case.demand("memory ran out", torch.cuda.memory_stats()["num_ooms"] > failures)
    case.bounded("difference", _relative(after, before), 1e-4)


def _relative(computed: npt.ArrayLike, want: npt.ArrayLike) -> float:
    computed, want = np.asarray(computed, dtype=np.float64), np.asarray(want, dtype=np.float64)
    return float(np.linalg.norm(computed - want) / max(float(np.linalg.norm(want)), 1e-30))
