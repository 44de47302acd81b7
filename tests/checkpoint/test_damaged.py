"""Damaged and made-up checkpoints: one error at load, in bounded time and memory, and never a model."""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import export_checkpoint, open_checkpoint, save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm_cli.main import app

SHAPE = ModelConfig(d_model=16, n_layer=2, max_length=62, filter_order=8)
WEIGHT, THEIR_WEIGHT = "backbone.blocks.1.mlp.fc1.weight", "hyena.backbone.layers.1.mlp.fc1.weight"
FORMS = {"native": WEIGHT, "hf": THEIR_WEIGHT}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model in our form (`native`), and in the port's (`hf`)."""
    folder = tmp_path_factory.mktemp("written")
    torch.manual_seed(0)
    model = HyenaLM(SHAPE).eval()
    save_checkpoint(
        folder / "native", model, {"from": "a test"}, Head(HeadConfig("classification", ("x", "y")), SHAPE)
    )
    export_checkpoint(model, folder / "hf")
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    for name in FORMS:
        shutil.copytree(written / name, tmp_path / name)
    return tmp_path


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any], keep_digests: bool = False) -> None:
    config = json.loads((folder / "config.json").read_text())
    if not keep_digests:
        config.pop("sha256", None)
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda w: w.index_fill(0, torch.tensor([3]), torch.nan), "NaN or infinite"),
    "infinite": (lambda w: w / 0, "NaN or infinite"),
    "beyond float32": (lambda w: w.double() * 0 + 1e300, "NaN or infinite"),
    "integers": (lambda w: w.int(), "holds (int32|I32)"),
    "bytes": (lambda w: w.to(torch.uint8), "holds (uint8|U8)"),
    "bools": (lambda w: w > 0, "holds (bool|BOOL)"),
    "complex": (lambda w: w.to(torch.complex64), "holds (complex64|C64)"),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "holds (float8_e4m3fn|F8_E4M3)"),
    "transposed": (lambda w: w.T.contiguous(), r"is \(16, 64\)"),
    "empty": (lambda w: w[:0], r"is \(0, 16\)"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_no_model_has(form: str, damage: str, copy: Path) -> None:
    path = copy / form / "model.safetensors"
    state, name = load_file(path), FORMS[form]
    change, message = DAMAGES[damage]
    save_file({**state, name: change(state[name])}, path, metadata={"format": "pt"})
    change_config(copy / form, lambda config: None)
    with pytest.raises(GenomeLMError, match=rf"model\.safetensors: [^\0]*fc1\.weight|{name}") as caught:
        genome_lm.load(copy / form, "cpu")
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize("damage", ["NaN", "integers", "bools", "complex"])
def test_the_same_in_a_pickle(damage: str, copy: Path) -> None:
    state = load_file(copy / "hf" / "model.safetensors")
    torch.save({**state, THEIR_WEIGHT: DAMAGES[damage][0](state[THEIR_WEIGHT])}, copy / "a.bin")
    with pytest.raises(GenomeLMError, match=DAMAGES[damage][1]):
        open_checkpoint(copy / "a.bin")


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors"])
@pytest.mark.parametrize("place", [-1, -30])
def test_a_flipped_bit_is_seen_by_the_digest(name: str, place: int, copy: Path) -> None:
    path = copy / "native" / name
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(GenomeLMError, match=rf"{name}: damaged, or of another checkpoint: its SHA-256"):
        open_checkpoint(copy / "native")


def test_an_edited_shape_is_seen_by_the_digest(copy: Path) -> None:
    change_config(copy / "native", lambda c: c["model"].update(layer_norm_epsilon=1e-4), keep_digests=True)
    with pytest.raises(GenomeLMError, match=r"config\.json: .*edited.*remove the section `sha256`"):
        open_checkpoint(copy / "native")
    change_config(copy / "native", lambda c: None)
    assert open_checkpoint(copy / "native").model.config.layer_norm_epsilon == 1e-4


def test_what_the_digest_does_not_cover_may_be_edited(copy: Path) -> None:
    change_config(copy / "native", lambda c: c["provenance"].update(note="ours"), keep_digests=True)
    assert open_checkpoint(copy / "native").provenance["note"] == "ours"


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "epsilon NaN": lambda c: c["model"].update(layer_norm_epsilon=float("nan")),
    "epsilon below 0": lambda c: c["model"].update(layer_norm_epsilon=-1),
    "width of text": lambda c: c["model"].update(d_model="16"),
    "width without end": lambda c: c["model"].update(d_model=2**31, d_inner=2**33),
    "width that fits no tensor": lambda c: c["model"].update(d_model=2**14, d_inner=2**16),
    "layers without end": lambda c: c["model"].update(n_layer=10**18),
    "layers without tensors": lambda c: c["model"].update(n_layer=900),
    "inner layers without end": lambda c: c["model"].update(num_inner_mlps=100_000),
    "order without end": lambda c: c["model"].update(order=2**63),
    "no number": lambda c: c["model"].update(d_inner=None, order=[2], n_layer={}),
    "unknown field": lambda c: c["model"].update(depth=3),
    "model missing": lambda c: c.pop("model"),
    "model null": lambda c: c.update(model=None),
    "model list": lambda c: c.update(model=[1]),
    "model text": lambda c: c.update(model="large"),
    "provenance list": lambda c: c.update(provenance=[]),
    "digests list": lambda c: c.update(sha256=["a"]),
    "another version": lambda c: c.update(format_version=2),
    "another vocabulary": lambda c: c.update(vocabulary=["A"]),
    "head null": lambda c: c.update(head=None),
    "head of no task": lambda c: c["head"].update(task="?"),
    "head with a prompt without end": lambda c: c["head"].update(prompt=10**12),
    "head of another width": lambda c: c["head"].update(outputs=[str(n) for n in range(50_000)]),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_configs_that_no_model_has(change: str, copy: Path) -> None:
    change_config(copy / "native", CONFIGS[change])
    with pytest.raises(GenomeLMError, match=re.escape(str(copy / "native"))):
        open_checkpoint(copy / "native")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ("[]", "mapping|names"),
        ('{"format": "genome-lm"', "JSON"),
        ("[" * 200_000, "nested"),
        ('{"format": ' + "9" * 5_000 + "}", "digits"),
        (" " * (17 << 20), "bytes"),
        ("\ud800", "utf-8"),
    ],
    ids=["empty", "list", "cut off", "deep", "digits", "long", "not UTF-8"],
)
def test_configs_that_can_t_be_read(text: str, message: str, copy: Path) -> None:
    (copy / "native" / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(GenomeLMError, match=rf"config\.json: .*({message})"):
        open_checkpoint(copy / "native")


def str_of(value: object) -> str:
    return str(value)[:8]


@pytest.mark.parametrize("epsilon", [float("nan"), -1, 10**400, "small", [], True], ids=str_of)
def test_their_epsilon(epsilon: object, copy: Path) -> None:
    change_config(copy / "hf", lambda c: c.update(layer_norm_epsilon=epsilon))
    with pytest.raises(GenomeLMError, match=r"hf/(model\.safetensors|config\.json): .*(epsilon|NaN)"):
        open_checkpoint(copy / "hf")


def raw_safetensors(path: Path, tensors: dict[str, list[int]], data: int | None = None) -> None:
    """A file of float32 zeros by names and shapes; `data` bytes of them, whatever the header says."""
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 4 * int(torch.tensor(shape, dtype=torch.float64).prod())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + (end if data is None else data))


def their_shapes(folder: Path) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}


NAME = "hyena.backbone.layers.{}.mixer.filter_fn.bias"
EMBEDDING = "hyena.backbone.embeddings.word_embeddings.weight"
SHAPES: dict[str, tuple[dict[str, list[int]], str]] = {
    "layer 10^30": ({NAME.format(10**30): [16]}, "superfluous"),
    "layer 10^5000": ({NAME.format("1" + "0" * 5000): [16]}, "superfluous"),
    "layer 99999": ({NAME.format(99_999): [16]}, "n_layer"),
    "a line end in a name": ({"hyena.backbone.x\n  y": [8]}, r"superfluous \S+x y$"),
    "layer of other digits": ({NAME.format("²"): [16]}, "superfluous"),
    "width 0": ({EMBEDDING: [16, 0]}, "holds nothing"),
    "order without end": ({"hyena.backbone.layers.0.mixer.in_proj.weight": [2**24, 16]}, "order|fit"),
    "inner layer 10^30": (
        {f"hyena.backbone.layers.0.mixer.filter_fn.implicit_filter.{10**30}.weight": [8, 8]},
        "superfluous",
    ),
    "span 2^22": ({"hyena.backbone.layers.0.mixer.filter_fn.pos_emb.z": [1, 2**22, 5]}, "should be|max_seq_len"),
    "thousands of others": ({f"x{number}": [1] for number in range(5_000)}, r"and 4,98\d more"),
    "frequency of nothing": ({"hyena.backbone.other.3.freq": [8]}, "superfluous"),
    "no dimension": ({EMBEDDING: []}, "2 dimensions"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_headers_that_no_model_has(kind: str, copy: Path) -> None:
    shapes, message = SHAPES[kind]
    raw_safetensors(copy / "hf" / "model.safetensors", {**their_shapes(copy / "hf"), **shapes})
    with pytest.raises(GenomeLMError, match=rf"model\.safetensors: [^\0]*({message})"):
        open_checkpoint(copy / "hf")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(8),
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 5 << 20) + b"{" + b" " * (5 << 20),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 3) + b"\xff{}",
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_no_safetensors(form: str, data: bytes, copy: Path) -> None:
    (copy / form / "model.safetensors").write_bytes(data)
    change_config(copy / form, lambda config: None)
    with pytest.raises(GenomeLMError, match=r"model\.safetensors: "):
        open_checkpoint(copy / form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(form: str, name: str, kind: str, copy: Path) -> None:
    path = copy / form / name
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}[kind]()
    with pytest.raises(GenomeLMError, match=f"{name}: .*not a regular file"):
        open_checkpoint(copy / form)


@pytest.mark.parametrize("arguments", [("info",), ("import", "--out", "out"), ("export", "--out", "out")])
def test_the_command_line_says_the_same_in_one_line(arguments: tuple[str, ...], copy: Path) -> None:
    (copy / "hf" / "model.safetensors").write_bytes(bytes(100))
    verb, *options = arguments
    options = [str(copy / value) if value == "out" else value for value in options]
    with pytest.raises(GenomeLMError, match=r"model\.safetensors: "):
        CliRunner().invoke(app, ["checkpoint", verb, str(copy / "hf"), *options], catch_exceptions=False)
    assert sorted(path.name for path in copy.iterdir()) == sorted(FORMS)


@pytest.mark.parametrize("kilobytes", [4, 16, 64])
@pytest.mark.parametrize("form", ["hf", "safetensors", "native"])
def test_a_full_disk(form: str, kilobytes: int, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes((1024 - kilobytes) << 10))
    model = HyenaLM(ModelConfig(d_model=64, n_layer=2, max_length=126))
    before = sorted(small_disk.iterdir())
    write = partial(save_checkpoint, small_disk / "out", model)
    if form != "native":
        write = partial(export_checkpoint, model, small_disk / "out", form)  # type: ignore[arg-type]
    with pytest.raises(GenomeLMError, match="No space left on device"):
        write()
    assert sorted(small_disk.iterdir()) == before


def test_a_tuned_model_keeps_its_head(copy: Path) -> None:
    def invoke(*arguments: object) -> str:
        return CliRunner().invoke(app, ["checkpoint", *map(str, arguments)], catch_exceptions=False).stdout

    invoke("import", copy / "native", "--out", copy / "again")
    invoke("extend", copy / "native", "--max-length", 200, "--out", copy / "longer")
    head = open_checkpoint(copy / "native").head
    assert head is not None
    for name in ("again", "longer"):
        other = open_checkpoint(copy / name).head
        assert other is not None
        torch.testing.assert_close(other.out.weight, head.out.weight)
    printed = invoke("export", copy / "native", "--out", copy / "port").replace("\n", " ")
    assert "the head of the tuned model has no place in this form" in printed
