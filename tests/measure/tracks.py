"""How near tuned heads come to the best correlation that a track allows, which is known of made tracks.

    python -m tests.measure.tracks --genomes DIR --out results/tracks

Reads over bins of 32 bases of U. maydis are drawn from Poisson distributions of known rates, so that the correlation
of the rates with the reads is the largest that any model can reach. The rates of the track `content` follow from the
G + C of the bin and of 128 bases on either side. Those of the track `coding` follow from how many of the bin's bases,
and of 64 on either side, the annotation has in coding sequence: a model has to tell coding sequence to reach them.
The model, a small one without training unless `--model` names another, sees 256 bases of context on both sides of a
window. Beside it stand the baselines of `genome-lm finetune`. A second head pools states over strides of 128 bases,
and goes back to bins (`--track-stride`).
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import C, G
from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.dataset import HOMOLOGY, Annotation, LabelledSet, TrackRecipe, TrackSet, read_annotation, read_examples
from genome_lm.dataset.examples import write_table
from genome_lm.finetune import Estimate, FinetuneConfig, finetune, measure
from genome_lm.finetune.targets import encode_examples
from genome_lm.formats.signals import Values
from genome_lm.genome import GenomeStore, read_bed, write_bed
from genome_lm.model import HyenaLM
from tests.measure.downstream import built, split

BIN = 32
STRIDE = 128
SMALL = ModelConfig(d_model=32, n_layer=2, max_length=1_536, embed_dropout=0.0)
TRACKS = ("content", "coding")
Array = npt.NDArray[np.float64]


def shares(flags: npt.NDArray[np.bool_], reach: int) -> Array:
    """The share of flagged bases among those of each whole bin, and `reach` on either side of it."""
    before = np.concatenate([[0], np.cumsum(flags)])
    starts = np.arange(0, len(flags) // BIN * BIN, BIN)
    firsts, ends = np.maximum(0, starts - reach), np.minimum(len(flags), starts + BIN + reach)
    share: Array = (before[ends] - before[firsts]) / (ends - firsts)
    return share


def rates(store: GenomeStore, annotation: Annotation, contig: str) -> dict[str, Array]:
    """The expected reads of each whole bin of a contig, by track."""
    length = int(store.contigs.lengths[store.contigs.index(contig)])
    ids = store.fetch(contig, 0, length)
    is_coding = np.zeros(length, dtype=bool)
    for transcript in annotation.transcripts:
        if transcript.contig == contig:
            for start, end in transcript.segments:
                is_coding[start:end] = True
    content = shares((ids == C) | (ids == G), 128)
    return {"content": 20 * np.exp(8 * (content - 0.54)), "coding": 4 + 20 * shares(is_coding, 64)}


class Reads:
    """The value of each base of a genome is that of its bin; none beyond the last whole bin."""

    def __init__(self, by_contig: list[Array]) -> None:
        self._by_contig = by_contig

    def values(self, contig: int, start: int, end: int) -> Values:
        """(end − start,) float32."""
        bins = np.arange(start, end) // BIN
        of_contig = np.append(self._by_contig[contig], np.nan)
        return of_contig[np.minimum(bins, len(of_contig) - 1)].astype(np.float32)


def made(genomes: Path, out: Path, windows: int) -> tuple[LabelledSet, LabelledSet]:
    """The windows with reads, and the same with rates."""
    store = built([genomes / "umaydis.fa.gz"], out / "genome.zarr")
    if not (out / "splits.bed").exists():
        write_bed(out / "splits.bed", split(store, HOMOLOGY))
    annotation = read_annotation(genomes / "umaydis.gff3.gz", store, None, "^Umaydis:([^:]+):")
    of_contigs = [rates(store, annotation, name) for name in store.contigs.names]
    generator = np.random.default_rng(0)
    sets = []
    for is_drawn in (True, False):
        signals = {
            name: Reads([generator.poisson(one[name]).astype(float) if is_drawn else one[name] for one in of_contigs])
            for name in TRACKS
        }
        recipe = TrackRecipe(BIN, 1_024, 256, most=windows)
        path = out / f"{'reads' if is_drawn else 'rates'}.parquet"
        write_table(path, TrackSet(store, signals, read_bed(out / "splits.bed", store), recipe).tables())
        sets.append(read_examples(path, store, TRACKS))
    return sets[0], sets[1]


def line(name: str, estimates: list[Estimate]) -> str:
    """A row of the table."""
    cells = []
    for track in TRACKS:
        (one,) = [each for each in estimates if each.metric == f"pearson of {track}"]
        cells.append(f"{one.value:.3f} ({one.low:.3f} – {one.high:.3f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print Pearson's correlation with the reads over the bins of the test split, as a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="checkpoint to tune; default: a small model without training")
    parser.add_argument("--windows", type=int, default=800, help="of all splits together")
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = given.model or save_checkpoint(given.out / "untrained", HyenaLM(SMALL), {})
    reads, expected = made(given.genomes, given.out, given.windows)
    rows = []
    for name, stride in (("bins", 0), (f"strides of {STRIDE}", STRIDE)):
        config = FinetuneConfig(epochs=given.epochs, lr=3e-3, sequences_per_step=8, track_stride=stride)
        result = finetune(model, reads, given.out / f"tuned-{stride}", "tracks", config)
        rows.append(line(f"model, {name}", result.metrics["test"]))
    tested = [encode_examples(each.of_split("test"), result.head, 1 << 20).targets for each in (expected, reads)]
    optimum = measure(result.head, [np.nan_to_num(each) for each in tested[0]], tested[1], 500)
    print(f"| | {' | '.join(TRACKS)} |\n| --- | --- | --- |")
    for baseline in result.baselines:
        print(line(baseline.name, baseline.metrics))
    print("\n".join([*rows, line("the best there can be", optimum)]))


if __name__ == "__main__":
    main()
