import builtins
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genome_lm.checkpoint import open_checkpoint
from genome_lm.checkpoint.pickles import StoredTensor, read_pickled
from genome_lm.errors import GenomeLMError


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def malicious(kind: str, mark: Path) -> Any:
    shell = f"touch {mark}"
    return {
        "os.system": Calls(os.system, shell),
        "eval": Calls(builtins.eval, f"__import__('os').system({shell!r})"),
        "exec": Calls(builtins.exec, f"open({str(mark)!r}, 'w').close()"),
        "open": Calls(builtins.open, str(mark), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "apply": Calls(map, os.system, [shell]),
    }[kind]


KINDS = ["os.system", "eval", "exec", "open", "getattr", "apply"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_nothing_runs(kind: str, nested: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    weight = torch.arange(6.0).view(2, 3)
    evil = malicious(kind, mark)
    content = {"state_dict": {"w": weight}, "hyper_parameters": {"a": [{"b": evil}]}} if nested else evil
    torch.save(content, path)
    file = read_pickled(path)
    assert not mark.exists()
    if nested:
        torch.testing.assert_close(file.read(file.content["state_dict"]["w"]), weight)
    assert {name.split(".")[0] for name in file.ignored} & {"posix", "__builtin__", "io", "_io", "itertools"}
    # The same file does run its code where it is let: the test can fail.
    if kind in ("os.system", "exec", "open"):
        torch.load(path, weights_only=False)
        assert mark.exists()


def test_tensors_and_containers_as_they_were(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    content = {
        "plain": base,
        "transposed": base.T,
        "slice": base[1:3, 2:5],
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": base.bfloat16(),
        "parameter": torch.nn.Parameter(base),
        "empty": torch.empty(0, 5),
        "others": OrderedDict(a=(1, 2.5, None, True, "x"), b=[torch.Size([1, 2])]),
    }
    torch.save(content, tmp_path / "a.pt")
    file = read_pickled(tmp_path / "a.pt")
    for name, tensor in content.items():
        if isinstance(tensor, torch.Tensor):
            stored = file.content[name]
            assert isinstance(stored, StoredTensor)
            torch.testing.assert_close(file.read(stored), tensor.detach())
    assert file.content["others"] == {"a": (1, 2.5, None, True, "x"), "b": [(1, 2)]}
    assert not file.ignored


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, compress: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in (storages or {}).items():
            file.writestr(f"archive/data/{name}", content)
    return path


class Tensor:
    """A tensor as torch.save writes it, with any claims."""

    def __init__(self, claimed: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.claimed, self.shape, self.stride, self.offset = claimed, shape, stride, offset

    def __reduce__(self) -> Any:
        storage = Storage(self.claimed)
        return torch._utils._rebuild_tensor_v2, (storage, self.offset, self.shape, self.stride, False, OrderedDict())


class Storage:
    def __init__(self, claimed: int) -> None:
        self.claimed = claimed


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", value.claimed) if isinstance(value, Storage) else None


def pickled(value: Any) -> bytes:
    data = io.BytesIO()
    Pickler(data, protocol=2).dump(value)
    return data.getvalue()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(1 << 40, (1 << 40,), (1,)), "has 16 bytes and claims"),
        (Tensor(4, (1 << 40,), (0,)), "reaches beyond its storage"),
        (Tensor(4, (5,), (1,)), "reaches beyond its storage"),
        (Tensor(4, (2,), (1,), 3), "reaches beyond its storage"),
        (Tensor(4, (2,), (-1,), 3), "reaches beyond its storage"),
    ],
)
def test_storages_that_claim_more_than_there_is(tensor: Tensor, message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.ckpt", pickled({"w": tensor}), {"0": bytes(16)})
    with pytest.raises(GenomeLMError, match=rf"bomb\.ckpt: .*{message}"):
        read_pickled(path)


def test_an_honest_tensor_passes_the_same_way(tmp_path: Path) -> None:
    data = torch.arange(4.0).numpy().tobytes()
    file = read_pickled(archive(tmp_path / "good.ckpt", pickled({"w": Tensor(4, (2, 2), (1, 2))}), {"0": data}))
    torch.testing.assert_close(file.read(file.content["w"]), torch.tensor([[0.0, 2.0], [1.0, 3.0]]))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.ckpt", pickled({}), {"0": bytes(1 << 20)}, compress=True)
    with pytest.raises(GenomeLMError, match="compressed"):
        read_pickled(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02h\x07.", "memo entry"),
        (b"\x80\x02(", "malicious"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "malicious"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.", "state of a function"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "no function is called"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "malicious"),
        (b"", "malicious"),
    ],
)
def test_damaged_and_crafted_pickles(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=message):
        read_pickled(archive(tmp_path / "bad.ckpt", data))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_no_checkpoint_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(GenomeLMError, match=r"bad\.ckpt: not a checkpoint in PyTorch's zip form"):
        read_pickled(tmp_path / "bad.ckpt")


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


DEEP = b"\x80\x02)" + b"\x85" * 300_000
"""A tuple in a tuple, 300,000 deep."""
DOUBLED = b"\x80\x02)" + b"".join(put(n) + get(n) + b"\x86" for n in range(40))
"""A tuple of twice the tuple before: 2^40 values to hash, in 500 bytes."""
LIST = b"\x80\x02](" + b"K\x01" * 100_000 + b"e" + put(0)
"""A list of 100,000 numbers, kept as memo entry 0."""
ORDERED = b"ccollections\nOrderedDict\n"
SIZE = b"ctorch\nSize\n"
BOMBS = {
    "deep key": (b"\x80\x02}" + DEEP[2:] + b"K\x01s.", "a key is neither text nor a number"),
    "doubling key": (b"\x80\x02}" + DOUBLED[2:] + b"K\x01s.", "a key is neither text nor a number"),
    "doubling key of a pair": (ORDERED + b"](" + DOUBLED[2:] + b"K\x01\x86e\x85R.", "a key is neither"),
    "doubling members": (b"\x80\x04(" + DOUBLED[2:] + b"\x91.", "no tensors"),
    "doubling storage": (DOUBLED + b"Q.", "unknown kind of storage"),
    "copies of a list": (LIST + (SIZE + get(0) + b"\x85R") * 1_000 + b".", "more than 1,000,000 steps"),
    "steps": (b"\x80\x02" + b"N0" * 600_000 + b".", "more than 1,000,000 steps"),
    "large number": (b"\x80\x02\x8b" + struct.pack("<I", 100_000) + b"\x01" * 100_000 + b".", "more than 2,048 bits"),
    "many digits": (b"I" + b"9" * 5_000 + b"\n.", "digits"),
    "deep": (DEEP + b".", "no tensors"),
    "deep lists": (b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".", "no tensors"),
    "within itself": (b"\x80\x02]" + put(0) + get(0) + b"a.", "no tensors"),
    "far memo entry": (b"\x80\x02}" + put(0x7FFFFFFF) + b".", "no tensors"),
    "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "state of a number": (b"\x80\x02K\x01}b.", "the state of a function or a value"),
    "call of a text": (b"\x80\x02U\x01a)R.", "what is no function is called"),
    "number of a mark": (b"\x80\x02(\x85.", "a value is missing"),
    "no mark": (b"\x80\x02NNt.", "a mark is missing"),
    "odd items": (b"\x80\x02}(Nu.", "damaged or malicious"),
    "no end": (b"\x80\x02N", "damaged or malicious"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_pickles_that_ask_for_more_than_there_is(kind: str, tmp_path: Path) -> None:
    data, message = BOMBS[kind]
    with pytest.raises(GenomeLMError, match=message):
        open_checkpoint(archive(tmp_path / "bomb.ckpt", data))


@pytest.mark.parametrize("shape", [(0, 1 << 200), (1 << 62, 0, 1 << 62), (0, -1)])
def test_empty_tensors_of_impossible_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ckpt", pickled({"w": Tensor(4, shape, (1,) * len(shape))}), {"0": bytes(16)})
    with pytest.raises(GenomeLMError, match="reaches beyond its storage"):
        read_pickled(path)


def test_many_tensors_of_one_storage(tmp_path: Path) -> None:
    state = {f"{n}": Tensor(1 << 18, (1 << 18,), (1,)) for n in range(20)}
    file = read_pickled(archive(tmp_path / "a.ckpt", pickled(state), {"0": bytes(1 << 20)}))
    with pytest.raises(GenomeLMError, match="its tensors claim 20,971,520 bytes"):
        file.tensors(file.content)


def saved(folder: Path) -> Path:
    state = load_file(Path(__file__).parents[1] / "data" / "hyenadna" / "a.hf" / "model.safetensors")
    torch.save({"state_dict": state}, folder / "a.ckpt")
    return folder / "a.ckpt"


def flags(path: Path, name: str, bit: int, signature: bytes, place: int) -> None:
    """Set a flag of a member in its local header or in the archive's directory."""
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(signature, at + 1)) >= 0:
        if name.encode() in data[at : at + 100]:
            data[at + place] |= bit
    path.write_bytes(data)


@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
@pytest.mark.parametrize(("bit", "message"), [(0x01, "encrypted"), (0x20, "patched")])
def test_archives_that_zipfile_does_not_read(member: str, bit: int, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    flags(path, member, bit, b"PK\x01\x02", 8)
    flags(path, member, bit, b"PK\x03\x04", 6)
    with pytest.raises(GenomeLMError, match=rf"a\.ckpt: damaged.*{message}"):
        open_checkpoint(path)


def test_a_flipped_bit_of_a_storage(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as file:
        member = max(file.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[member.header_offset + member.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(GenomeLMError, match=r"a\.ckpt: damaged.*Bad CRC-32"):
        open_checkpoint(path)


def test_any_damaged_byte_is_one_error_or_harmless(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole, golden = path.read_bytes(), open_checkpoint(path).model.state_dict()
    random = np.random.default_rng(0)
    ends = np.concatenate([random.integers(0, 4_000, 60), random.integers(len(whole) - 4_000, len(whole), 60)])
    refused = []
    for place in ends:
        data = bytearray(whole)
        data[place] = int(random.integers(256))
        path.write_bytes(data)
        try:
            state = open_checkpoint(path).model.state_dict()
            assert all(torch.equal(tensor, golden[name]) for name, tensor in state.items())
        except GenomeLMError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in message for message in refused)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(GenomeLMError, match="not a regular file"):
        open_checkpoint(tmp_path / "a.ckpt")
