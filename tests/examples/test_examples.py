import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from genome_lm.genome import build_store
from tests.conftest import biased_dna

EXAMPLE = Path(__file__).parent / "probe_embeddings.py"


def test_the_probe_takes_three_labels(run: Path, tmp_path: Path) -> None:
    letters, labels = biased_dna(60 * 100, 5), np.random.default_rng(0).choice(list("abc"), 100)
    lines = [f"c\t{60 * i}\t{60 * i + 60}\t{label}\t0\t{'+-'[i % 2]}\n" for i, label in enumerate(labels)]
    (tmp_path / "g.fa").write_text(f">c\n{letters}\n")
    (tmp_path / "labelled.bed").write_text("".join(lines))
    store = build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")
    command = [sys.executable, EXAMPLE, run / "checkpoint", store.path, tmp_path / "labelled.bed"]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert len(re.findall(r"AUROC 0\.\d+ on 20 places", shown.stdout)) == 2


def test_the_probe_finds_what_the_model_has_learned(run: Path, tmp_path: Path) -> None:
    """Stretches of the DNA that the model was trained on, among the same bases in random order: GC tells nothing."""
    generator = np.random.default_rng(0)
    learned = biased_dna(100 * 400, 77)
    pieces, lines = [], []
    for number in range(400):
        piece = learned[100 * number : 100 * (number + 1)]
        is_like = generator.random() < 0.5
        pieces.append(piece if is_like else "".join(generator.permutation(list(piece))))
        lines.append(f"c\t{100 * number}\t{100 * (number + 1)}\t{'genome' if is_like else 'shuffled'}\n")
    (tmp_path / "g.fa").write_text(">c\n" + "".join(pieces) + "\n")
    (tmp_path / "labelled.bed").write_text("".join(lines))
    store = build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")
    command = [sys.executable, EXAMPLE, run / "checkpoint", store.path, tmp_path / "labelled.bed"]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    scores = {name: float(score) for name, score in re.findall(r"(.+): AUROC ([\d.]+) on 80 places", shown.stdout)}
    assert scores["embeddings"] > 0.9
    assert scores["GC content"] < 0.7
