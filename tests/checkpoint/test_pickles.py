import builtins
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert {name.split(".")[0] for name in file.ignored} & {"posix", "__builtin__", "io", "itertools"}
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
