"""Whether tools that take a HyenaDNA folder open ours: multimolecule's converter, and recall-bench's adapter.

    python -m tests.measure.other_tools multimolecule
    python -m tests.measure.other_tools recall-bench

Each needs the tool and transformers installed. A small model with random weights is exported, opened by the tool, and
the largest difference of the logits of A, C, G and T is printed.
"""

import sys
import tempfile
from pathlib import Path

import torch

from genome_lm.alphabet import encode
from genome_lm.checkpoint import export_checkpoint, export_for_transformers
from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM

TEXT = "ACGTTGCA" * 16


def by_multimolecule(exported: Path) -> torch.Tensor:
    """Logits of A, C, G and T by a model that multimolecule's program for HyenaDNA has converted."""
    from multimolecule import DnaTokenizer, HyenaDnaForCausalLM
    from multimolecule.models.hyenadna import convert_checkpoint as converter

    config = converter.ConvertConfig()
    (exported / "README.md").touch()  # its program copies one
    config.root, config.checkpoint_path, config.output_path = str(exported), str(exported), str(exported / "new")
    converter.convert_checkpoint(config)
    tokenizer = DnaTokenizer.from_pretrained(config.output_path)
    ids = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    logits = HyenaDnaForCausalLM.from_pretrained(config.output_path).eval()(input_ids=ids).logits
    return logits[0][:, [tokenizer.get_vocab()[base] for base in "ACGT"]]


def by_recall_bench(exported: Path) -> torch.Tensor:
    """The same by recall-bench's adapter of models on the hub."""
    from recall_bench.adapters import HyenaDNA

    adapter = HyenaDNA("ours", {"path": str(exported), "max_ctx": 1024, "domain": "dna"}, "cpu", torch.float32)
    return adapter.logits(torch.tensor([adapter.tokenize(TEXT)]))[0, :, 7:11]


TOOLS = {
    "multimolecule": (export_checkpoint, by_multimolecule),
    "recall-bench": (export_for_transformers, by_recall_bench),
}


def main(tool: str) -> None:
    """Export, open and compare."""
    export, open_by = TOOLS[tool]
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(d_model=32, n_layer=2, max_length=1024, embed_dropout=0.0)).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        export(model, Path(folder, "exported"))
        logits = open_by(Path(folder, "exported"))
        expected = model(torch.from_numpy(encode(TEXT))[None].long())[0, :, 7:11]
    print(f"{tool}: largest difference {float((logits - expected).abs().max()):.1e}")


if __name__ == "__main__":
    main(sys.argv[1])
