"""Whether a model knows order beyond dinucleotides."""

import numpy as np

from genome_lm.alphabet import Tokens
from genome_lm.evaluation.analysis import Analysis, Row, Tables
from genome_lm.evaluation.losses import base_losses, sample_windows
from genome_lm.evaluation.measures import draw_measures, measure_row
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM


def shuffle_sensitivity(
    model: HyenaLM, store: GenomeStore, intervals: list[Interval], windows: int = 100, seed: int = 0
) -> list[Row]:
    """Loss of windows and of shuffles that keep every dinucleotide's count: order beyond these is what differs.

    Returns:
        Rows of measure, value and error, in nats per base: the loss of either, and the paired difference.
    """
    generator = np.random.default_rng(seed)
    tokens = sample_windows(store, intervals, model.config.max_length, windows, generator)
    shuffled = np.stack([dinucleotide_shuffle(row, generator) for row in tokens])
    real, other = (np.nanmean(base_losses(model, each), axis=1) for each in (tokens, shuffled))
    values = {"loss, real": real, "loss, shuffled": other, "shuffled − real": other - real}
    return [measure_row(measure, each) for measure, each in values.items()]


def dinucleotide_shuffle(tokens: Tokens, generator: np.random.Generator) -> Tokens:
    """A random sequence of the same dinucleotides with the same ends: (L,) uint8 → (L,) uint8.

    A random Eulerian path (Altschul and Erickson 1985, Molecular Biology and Evolution 2:526): the last edges out of
    the letters form a tree towards the last letter, drawn by a loop-erased walk (Kandel et al. 1996); the other edges
    come in random order.
    """
    edges = {letter: tokens[1:][tokens[:-1] == letter] for letter in np.unique(tokens).tolist()}
    last: dict[int, int] = {}
    reached = {int(tokens[-1])}
    for letter in edges:
        walk, node = {}, letter
        while node not in reached:
            walk[node] = int(generator.integers(len(edges[node])))
            node = int(edges[node][walk[node]])
        node = letter
        while node not in reached:
            last[node] = walk[node]
            reached.add(node)
            node = int(edges[node][walk[node]])
    order = {}
    for letter, targets in edges.items():
        rest = np.delete(targets, last[letter]) if letter in last else targets
        rest = generator.permutation(rest)
        order[letter] = [*rest.tolist(), *([int(targets[last[letter]])] if letter in last else [])]
    path, used = [int(tokens[0])], dict.fromkeys(edges, 0)
    while len(path) < len(tokens):
        node = path[-1]
        path.append(order[node][used[node]])
        used[node] += 1
    return np.array(path, dtype=np.uint8)


ANALYSIS = Analysis(
    words="Loss of shuffles that keep the counts of dinucleotides; above 0, the model knows order beyond them.",
    run=lambda s: Tables(shuffle_sensitivity(s.lm, s.store, s.regions, s.number(100), s.seed)),
    draw=draw_measures,
)
