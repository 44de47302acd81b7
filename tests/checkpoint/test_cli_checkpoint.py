import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm_cli.main import app

FIXTURES = Path(__file__).parents[1] / "data" / "hyenadna"


def checkpoint(*arguments: object) -> str:
    return CliRunner().invoke(app, ["checkpoint", *map(str, arguments)], catch_exceptions=False).stdout


def test_import_export_import_extend(tmp_path: Path) -> None:
    native, hf, one, longer = (tmp_path / name for name in ("native", "hf", "one.safetensors", "longer"))
    printed = checkpoint("import", FIXTURES / "b.lightning.ckpt", "--out", native)
    assert f"wrote {native}: HyenaDNA (Lightning), context 1,024" in printed
    checkpoint("export", native, "--out", hf)
    checkpoint("export", native, "--format", "safetensors", "--out", one)
    ids = torch.randint(7, 11, (2, 300))
    golden = genome_lm.load(FIXTURES / "b.lightning.ckpt", "cpu").logits(ids)
    for path in (native, hf, one):
        assert torch.equal(genome_lm.load(path, "cpu").logits(ids), golden)
    checkpoint("extend", native, "--max-length", 4096, "--out", longer)
    extended = genome_lm.load(longer, "cpu")
    assert extended.config.max_length == 4096
    assert extended.provenance["extended_from_max_length"] == 1024
    for out in (native, hf, one, longer):
        with pytest.raises(GenomeLMError, match="exists"):
            checkpoint("import", FIXTURES / "a.hf", "--out", out)


@pytest.mark.parametrize("name", ["a.hf", "a.lightning-checkpointed.ckpt"])
def test_info(name: str) -> None:
    facts = json.loads(checkpoint("info", FIXTURES / name, "--length", 128, "--json"))
    assert facts["form"].startswith("HyenaDNA")
    assert facts["context"] == 256
    assert facts["vocabulary"][7:] == ["A", "C", "G", "T", "N"]
    assert facts["parameters"] == sum(p.numel() for p in genome_lm.load(FIXTURES / name, "cpu").model.parameters())
    assert 0 < facts["forward_bytes"] < facts["training_bytes"]
    longer = json.loads(checkpoint("info", FIXTURES / name, "--json"))
    assert longer["length"] == 256
    assert longer["training_bytes"] > facts["training_bytes"]
    shown = checkpoint("info", FIXTURES / name)
    assert all(word in shown for word in ("parameters", "256 bases", "A=7", "memory", "imported_from"))


@pytest.mark.parametrize("command", [("info",), ("import", "--out", "new")])
def test_a_revision_of_what_lies_here_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    verb, *options = [str(tmp_path / word) if word == "new" else word for word in command]
    with pytest.raises(GenomeLMError, match=r"a\.hf: lies on this machine, where there is no revision 'v1'"):
        checkpoint(verb, FIXTURES / "a.hf", "--revision", "v1", *options)
    assert not (tmp_path / "new").exists()


def test_a_folder_as_the_originals_were_published(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "a.lightning-checkpointed.ckpt", tmp_path / "weights.ckpt")
    shutil.copy(FIXTURES / "a.lightning-checkpointed.config.json", tmp_path / "config.json")
    assert "checkpoint_mixer" in checkpoint("info", tmp_path, "--json")
