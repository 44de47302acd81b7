from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from genome_lm.genome import GenomeStore, build, build_store

IUPAC = "ACGTUNRYSWKMBDHVacgtunryswkmbdhv"


class Small(NamedTuple):
    store: GenomeStore
    fasta: Path
    sequences: dict[str, str]


def random_dna(bases: int, seed: int, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), bases))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Contigs over many chunks and shards, one within a chunk, runs of N that touch the ends of contigs."""
    folder = tmp_path_factory.mktemp("small")
    one = random_dna(3_000, 1, "ACGT" * 8 + IUPAC)
    sequences = {
        "chr1": "N" * 70 + one[70:1_000] + "n" * 600 + one[1_600:],
        "chr2": random_dna(2_001, 2) + "N" * 90,
        "tiny": "N" * 10 + "acgtRYACG",
        "chrM": random_dna(900, 3),
    }
    (folder / "small.fa").write_text("".join(f">{name} of a test\n{dna}\n" for name, dna in sequences.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "CHUNK", 64)
        patch.setattr(build, "SHARD", 512)
        return Small(
            build_store([folder / "small.fa"], folder / "small.zarr", "test"), folder / "small.fa", sequences
        )
