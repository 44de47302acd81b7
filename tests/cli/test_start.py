"""What commands leave out at their start, so that a small input is done soon."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from genome_lm.checkpoint import save_checkpoint
from genome_lm.model import HyenaLM
from tests.conftest import Genome
from tests.tiny import TINY_MODEL

HEAVY = (
    "torch._dynamo torch._inductor torch.distributed.tensor "
    "sympy pandas scipy matplotlib lightning h5py sklearn anndata"
).split()
CODE = """
import sys
from genome_lm_cli.main import app

heavy, commands = eval(sys.argv[1])
for arguments in commands:
    app(args=arguments, standalone_mode=False)
    loaded = [name for name in heavy if name in sys.modules]
    assert not loaded, (arguments[0], loaded)
"""


def test_commands_with_small_inputs_leave_heavy_libraries_out(genome: Genome, tmp_path: Path) -> None:
    """All in one process: what the first leaves out and a later one imports is told by that one's name."""
    layout = "attention-local,hyena-se,hyena-mr,hyena"
    model = str(save_checkpoint(tmp_path / "model", HyenaLM(replace(TINY_MODEL, n_layer=4, layout=layout))))
    fasta, vcf = tmp_path / "one.fa", tmp_path / "one.vcf"
    fasta.write_text(">one\n" + "ACGTTGCA" * 12 + "\n")
    base = chr(genome.store["one", 499:500][0])
    vcf.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=one>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"one\t500\t.\t{base}\t{'C' if base == 'A' else 'A'}\t.\t.\t.\n"
    )
    store, budget = ["--genome", str(genome.store.path)], ["--memory", "2GB"]
    evaluated = ["--intervals", str(genome.intervals), "--markov-order", "-1", "--max-bases", "1000"]
    commands = [
        *(["embed", model, "--fasta", str(fasta), "--out", str(tmp_path / name)] for name in ("o.npz", "o.parquet")),
        ["embed", "bacteria-900k", "--fasta", str(fasta), "--out", str(tmp_path / "shipped.npz"), "--threads", "1"],
        ["score", model, *store, "--vcf", str(vcf), "--out", str(tmp_path / "out.vcf")],
        ["generate", model, "--prompt", "ACGT", "--length", "4", "--out", str(tmp_path / "out.fa"), *budget],
        ["evaluate", model, *store, *evaluated, *budget],
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", CODE, repr((HEAVY, commands))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
