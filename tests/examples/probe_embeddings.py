"""From a genome and a BED file to a classifier: a scikit-learn probe on embeddings.

Run it whole, or cell by cell in an editor that knows `# %%`:

    python tests/examples/probe_embeddings.py run/checkpoint genome.zarr labelled.bed

The BED's fourth column is the label, of two or more; the sixth, if it is there, is the strand. Test regions are whole
stretches of the genome, not a random choice of intervals: neighbours are alike, and a probe that has seen the
neighbour of what it is asked about looks better than it is.
"""

# %% Where things are
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import genome_lm
from genome_lm.genome import read_bed

checkpoint, genome, bed = map(Path, sys.argv[1:4])

# %% The labelled places, and their sequences
store = genome_lm.GenomeStore(genome)
places = read_bed(bed, store)
labels = np.array([place.name for place in places])
strands = ["-" if place.strand == "-" else "+" for place in places]
sequences = [
    store.fetch(place.contig, place.start, place.end, strand, output="letters").tobytes().decode()
    for place, strand in zip(places, strands, strict=True)
]

# %% Embeddings of two layers in one pass, both strands averaged
model = genome_lm.load(checkpoint)
layers = model.embed_layers(sequences, [1, None], pool="mean", strand="both")
embeddings = np.concatenate(list(layers.values()), axis=1)
gc = np.array([[sum(base in "GCgc" for base in sequence) / len(sequence)] for sequence in sequences])

# %% Every fifth stretch of the genome is for the test
STRETCHES = 50
stretch = np.arange(len(places)) * STRETCHES // len(places)  # BED files are sorted by place
is_test = stretch % 5 == 0

if not set(labels[is_test]) == set(labels[~is_test]) or len(set(labels)) < 2:
    sys.exit(f"{bed}: two labels or more are needed, and each in the training and in the test stretches")

# %% The probe, beside one that sees the GC content alone
for name, features in (("embeddings", embeddings), ("GC content", gc)):
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    probe.fit(features[~is_test], labels[~is_test])
    chances = probe.predict_proba(features[is_test])
    # Of more than two labels, the mean over each against the rest.
    chances = chances[:, 1] if len(probe.classes_) == 2 else chances
    score = roc_auc_score(labels[is_test], chances, multi_class="ovr", labels=probe.classes_)
    print(f"{name}: AUROC {score:.3f} on {is_test.sum():,} places")
