"""Classification by linear probes on embeddings, beside honest baselines on the same sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from genome_lm.alphabet import PAD, A, Tokens, encode
from genome_lm.dataset import LabelledSet
from genome_lm.dataset.baselines import best_logistic, kmer_logistic
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.analysis import Analysis, Row, Setting, Tables
from genome_lm.evaluation.measures import draw_compared
from genome_lm.genome.words import with_reverse_complements, words_of
from genome_lm.inference import GenomeLM
from genome_lm.model import HyenaLM
from genome_lm.optional import require
from genome_lm.text import some_of

Array = npt.NDArray[Any]
PROBE = "linear probe"
RESAMPLES = 1_000


def probe_set(
    model: GenomeLM, labelled: LabelledSet, *, pool: str = "mean", seed: int = 0, cnn: bool = True
) -> list[Row]:
    """Accuracy on the test split of what is trained on the training split of the same set.

    - linear probe: logistic regression on the model's embeddings, averaged over both strands;
    - untrained model: the same on one of the same shape with random weights;
    - k-mer logistic regression: on the frequencies of words, a word and its reverse complement counted as one;
    - Markov: a chain of order k for each class, the likeliest class wins (orders 3 and 5);
    - small CNN: two convolutions, a maximum over the positions, trained from scratch.

    Penalties, k-mer widths and the CNN's epoch are chosen on the validation split (a tenth of the training split if
    there is none); the test split is looked at once.

    Returns:
        Rows of method, accuracy with a 95 % bootstrap interval, and MCC (NaN if the test split has one class).

    Raises:
        GenomeLMError: If there is no training or no test split, or a single class.
    """
    require("sklearn")  # before anything is embedded
    data = _Split.of(labelled, seed)
    texts = [[e.sequence for e in split] for split in data.examples]
    rows = []
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    untrained = GenomeLM(HyenaLM(model.config).to(model.device))
    torch.set_rng_state(torch_state)
    for name, each in ((PROBE, model), (f"untrained model, {PROBE}", untrained)):
        train, valid, test = (np.asarray(each.embed(sequences, pool=pool, strand="both")) for sequences in texts)
        classifier, _ = best_logistic((train, valid), data.targets[:2], seed)
        rows.append(data.row(name, classifier.predict(test)))
    tokens = [[encode(sequence) for sequence in sequences] for sequences in texts]
    kmers = kmer_logistic(tokens[:2], data.targets[:2], len(data.classes), seed)
    rows.append(data.row(kmers.name, kmers.probabilities(tokens[2]).argmax(1)))
    rows += [data.row(f"order-{order} Markov", _markov(data, tokens, order)) for order in (3, 5)]
    if cnn:
        rows.append(data.row("small CNN", _cnn(data, tokens, seed)))
    return rows


class _Split:
    """Classes as numbers, and how a prediction of the test split is scored."""

    def __init__(self, examples: list[Sequence[Any]], classes: list[str], seed: int) -> None:
        self.examples, self.classes = examples, classes
        self.targets = [np.array([classes.index(e.labels[0]) for e in split]) for split in examples]
        generator = np.random.default_rng(seed)
        count = len(examples[2])
        self._draws = generator.integers(count, size=(RESAMPLES, count))

    @classmethod
    def of(cls, labelled: LabelledSet, seed: int) -> "_Split":
        train, valid, test = (labelled.of_split(split).examples for split in ("train", "valid", "test"))
        if not train or not test:
            raise GenomeLMError("a probe needs a training and a test split")
        if not valid:
            order = np.random.default_rng(seed).permutation(len(train)).tolist()
            cut = max(1, len(train) // 10)
            train, valid = [train[i] for i in order[cut:]], [train[i] for i in order[:cut]]
        classes = sorted({e.labels[0] for e in train})
        if len(classes) < 2:
            raise GenomeLMError(f"a probe needs two classes; the training split has {some_of(classes)}")
        if unknown := {e.labels[0] for e in (*valid, *test)} - set(classes):
            raise GenomeLMError(f"classes {some_of(sorted(unknown))} are not in the training split")
        return cls([train, valid, test], classes, seed)

    def row(self, method: str, predicted: Array) -> Row:
        right = (predicted == self.targets[2]).astype(float)
        low, high = np.quantile(right[self._draws].mean(1), [0.025, 0.975]).tolist()
        is_varied = len(set(self.targets[2].tolist())) > 1
        correlate = require("sklearn.metrics").matthews_corrcoef
        mcc = float(correlate(self.targets[2], predicted)) if is_varied else float("nan")
        counts = {"train": len(self.targets[0]), "test": len(self.targets[2])}
        return {"method": method, "accuracy": float(right.mean()), "low": low, "high": high, "mcc": mcc, **counts}


def _markov(data: _Split, tokens: Sequence[Sequence[Tokens]], order: int) -> Array:
    """The class under whose chain, of both strands, with one pseudo-count per base, the sequence is likeliest."""
    tables = []
    for number in range(len(data.classes)):
        counts = np.zeros(4 ** (order + 1), dtype=np.int64)
        for ids, target in zip(tokens[0], data.targets[0], strict=True):
            if target == number:
                counts += np.bincount(words_of(ids, order + 1), minlength=len(counts))
        both = with_reverse_complements(counts, order + 1).reshape(-1, 4) + 1.0
        tables.append(np.log(both / both.sum(1, keepdims=True)).reshape(-1))
    stacked = np.stack(tables)
    return np.array([stacked[:, words_of(ids, order + 1)].sum(1).argmax() for ids in tokens[2]])


class _SmallCnn(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 64, 11, padding=5)
        self.second = nn.Conv1d(64, 64, 7, padding=3)
        self.out = nn.Linear(128, classes)

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        """(B, 4, L) → (B, classes)."""
        x = F.max_pool1d(F.relu(self.first(one_hot)), 4, ceil_mode=True)
        x = F.relu(self.second(x))
        return self.out(torch.cat([x.amax(-1), x.mean(-1)], dim=1))


def _cnn(data: _Split, tokens: Sequence[Sequence[Tokens]], seed: int, epochs: int = 12) -> Array:
    """Trained with AdamW on either strand at random; the best epoch on the validation split predicts."""
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _SmallCnn(len(data.classes))
    ids = [_padded(each) for each in tokens]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    best: tuple[Array, float] = np.empty(0), -1.0
    for _ in range(epochs):
        model.train()
        for rows in np.array_split(generator.permutation(len(ids[0])), max(1, len(ids[0]) // 64)):
            one_hot = _one_hot(ids[0][rows])
            if generator.random() < 0.5:
                one_hot = one_hot.flip(1, 2)
            loss = F.cross_entropy(model(one_hot), torch.from_numpy(data.targets[0][rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            predicted = [
                np.concatenate([model(_one_hot(part)).argmax(1).numpy() for part in _parts(each)]) for each in ids[1:]
            ]
        score = float((predicted[0] == data.targets[1]).mean())
        if score > best[1]:
            best = predicted[1], score
    return best[0]


def _parts(ids: Tokens) -> list[Tokens]:
    return [ids[start : start + 256] for start in range(0, len(ids), 256)]


def _padded(tokens: Sequence[Tokens]) -> Tokens:
    padded = np.full((len(tokens), max(len(ids) for ids in tokens)), PAD, dtype=np.uint8)
    for row, ids in enumerate(tokens):
        padded[row, : len(ids)] = ids
    return padded


def _one_hot(ids: Tokens) -> torch.Tensor:
    """(B, L) → (B, 4, L) float32, zeros for what is no base; flipping both axes is the reverse complement."""
    return torch.from_numpy((ids[:, None, :] == np.arange(A, A + 4)[None, :, None]).astype(np.float32))


def _run(setting: Setting) -> Tables:
    sets = setting.given.sets
    return Tables([{"set": name, **row} for name, each in sets.items() for row in probe_set(setting.model, each)])


def _draw(rows: list[Row]) -> str:
    names = list(dict.fromkeys(row["set"] for row in rows))
    rows = sorted(rows, key=lambda row: (names.index(row["set"]), -row["accuracy"]))
    labels = [f"{row['set']}: {row['method']}" for row in rows]
    return draw_compared(rows, labels, "accuracy", "accuracy", [row["method"] != PROBE for row in rows])


ANALYSIS = Analysis(
    words="Test accuracy of linear probes on embeddings and of baselines trained on the same sequences.",
    run=_run,
    draw=_draw,
    needs="sets",
)
