import pytest
import torch

from genome_lm.device import choose_device
from genome_lm.errors import GenomeLMError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CPU", "device 'CPU': did you mean cpu[?] use cpu, cuda, "),
        ("gpu", "device 'gpu': did you mean cuda[?]"),
        ("GPU:1", "did you mean cuda:1[?]"),
        ("xyz", "device 'xyz': use cpu, cuda, cuda:N"),
        ("cuda:²", "device 'cuda:²': use"),
        ("cuda:-1", "use cpu"),
        ("", "device '': use"),
        ("xpu", "device 'xpu': use"),
    ],
)
def test_a_wrong_word(name: str, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        choose_device(name)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for version, reason in ((None, "built without CUDA"), ("12.8", "built for CUDA 12.8")):
        monkeypatch.setattr(torch.version, "cuda", version)
        for name in ("cuda", "cuda:0"):
            with pytest.raises(GenomeLMError, match=rf"device {name}: .*{reason}.*use cpu"):
                choose_device(name)
    with pytest.raises(GenomeLMError, match=r"device mps: .*use cpu"):
        choose_device("mps")
    assert choose_device(None) == choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_gpus_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(GenomeLMError, match="device cuda:2: the GPUs here are cuda:0 to cuda:1"):
        choose_device("cuda:2")
