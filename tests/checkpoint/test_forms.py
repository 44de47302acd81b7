"""Checkpoints as people have them: in shards, wrapped, nested, rounded, tuned elsewhere."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genome_lm.checkpoint import export_checkpoint, open_checkpoint
from genome_lm.checkpoint.export import Format
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM

FIXTURES = Path(__file__).parents[1] / "data" / "hyenadna"
PORT = FIXTURES / "a.hf"
FEATURES = "hyena.backbone.layers.1.mixer.filter_fn.pos_emb.z"
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return load_file(PORT / "model.safetensors")


def weights(path: Path) -> State:
    return open_checkpoint(path).model.state_dict()


def assert_same(path: Path) -> None:
    golden = weights(PORT)
    assert all(torch.equal(tensor, golden[name]) for name, tensor in weights(path).items())


def in_shards(folder: Path, state: State, suffix: str = ".safetensors") -> Path:
    folder.mkdir()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    write: Callable[[State, Path], object] = save_file if suffix == ".safetensors" else torch.save
    places = {name: f"{stem}-{number % 3 + 1:05}-of-00003{suffix}" for number, name in enumerate(state)}
    for place in set(places.values()):
        write({name: tensor for name, tensor in state.items() if places[name] == place}, folder / place)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    shutil.copy(PORT / "config.json", folder)
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_several_files_with_an_index(suffix: str, state: State, tmp_path: Path) -> None:
    folder = in_shards(tmp_path / "shards", state, suffix)
    assert_same(folder)
    assert_same(next(folder.glob("*.index.json")))
    assert_same(next(folder.glob(f"*00002-of*{suffix}")))
    missing = next(folder.glob(f"*00002-of*{suffix}"))
    missing.unlink()
    with pytest.raises(GenomeLMError, match=missing.name):
        open_checkpoint(folder)


@pytest.mark.parametrize("place", ["", "model.safetensors.index.json", "model-00001-of-00003.safetensors"])
def test_the_config_beside_several_files(place: str, state: State, tmp_path: Path) -> None:
    folder = in_shards(tmp_path / "shards", state)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.01}))
    assert open_checkpoint(folder / place).model.config.layer_norm_epsilon == 0.01


@pytest.mark.parametrize("form", ["hf", "safetensors"])
def test_what_no_tensor_tells_is_exported_too(form: Format, tmp_path: Path) -> None:
    shape = ModelConfig(d_model=16, n_layer=1, max_length=62, layer_norm_epsilon=0.01, resid_dropout=0.25)
    out = export_checkpoint(HyenaLM(shape), tmp_path / "a.safetensors", form)
    assert open_checkpoint(out).model.config == shape


def test_operators_that_the_port_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HyenaLM(ModelConfig(d_model=16, n_layer=2, max_length=62))
    monkeypatch.setattr(ModelConfig, "mixers", ("hyena", "other"))
    with pytest.raises(GenomeLMError, match="no place for the operators other"):
        export_checkpoint(model, tmp_path / "out")


def test_the_folder_of_a_run(state: State, tmp_path: Path) -> None:
    shutil.copytree(PORT, tmp_path / "run" / "checkpoint")
    with pytest.raises(GenomeLMError, match=r"there is one in .*run/checkpoint"):
        open_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_map": None}, "no `weight_map`"),
        ({"weight_map": {"a": "../model.safetensors"}}, "same folder"),
        ({"weight_map": {"a": "model-00001-of-00003.safetensors"}}, "does not hold what the index says"),
    ],
)
def test_an_index_that_is_wrong(change: object, message: str, state: State, tmp_path: Path) -> None:
    folder = in_shards(tmp_path / "shards", state)
    (folder / "model.safetensors.index.json").write_text(json.dumps(change))
    with pytest.raises(GenomeLMError, match=message):
        open_checkpoint(folder)


WRAPPED = {
    "compiled": lambda key: f"_orig_mod.{key}",
    "parallel": lambda key: f"module.{key}",
    "both, within Lightning": lambda key: f"model._orig_mod.module.{key}",
    "compiled blocks": lambda key: key.replace(".mixer.", "._orig_mod.mixer."),
    "Fabric": lambda key: f"_forward_module.{key}",
    "FSDP": lambda key: f"_fsdp_wrapped_module.{key}".replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_prefixes_of_what_wrapped_the_model(wrapped: str, state: State, tmp_path: Path) -> None:
    save_file({WRAPPED[wrapped](key): tensor for key, tensor in state.items()}, tmp_path / "model.safetensors")
    assert_same(tmp_path)


def test_two_models_in_one_file(state: State, tmp_path: Path) -> None:
    both = {**state, **{f"module.{key}": tensor.clone() for key, tensor in state.items()}}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(GenomeLMError, match=r"two models in one file.*\n.* and module\."):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_state_dict_one_level_down(key: str, state: State, tmp_path: Path) -> None:
    torch.save({key: state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").provenance["epoch"] == 3


def test_several_state_dicts(state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "ema": state | {}}, tmp_path / "a.pt")
    with pytest.raises(GenomeLMError, match="several models in it \\(model, ema\\)"):
        open_checkpoint(tmp_path / "a.pt")
    torch.save({"state_dict": state, "ema": state | {}}, tmp_path / "a.pt")
    assert_same(tmp_path / "a.pt")


def test_a_module_s_own_state_dict(tmp_path: Path) -> None:
    """It has an attribute, which plain dicts have not."""
    linear = torch.nn.Linear(2, 2)
    torch.save({**linear.state_dict()}, tmp_path / "plain.pt")
    torch.save(linear.state_dict(), tmp_path / "a.pt")
    with pytest.raises(GenomeLMError, match="it holds weight, bias"):
        open_checkpoint(tmp_path / "a.pt")


def test_a_sequence_classifier(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    del state["lm_head.weight"]
    save_file({**state, "score.weight": torch.ones(2, 32)}, tmp_path / "model.safetensors")
    config = {
        **json.loads((PORT / "config.json").read_text()),
        "architectures": ["HyenaDNAForSequenceClassification"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(tmp_path)
    assert "its head (score.weight) is left out" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("back", [False, True])
def test_saved_in_another_precision(
    dtype: torch.dtype, back: bool, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounded = {name: tensor.to(dtype) for name, tensor in state.items()}
    written = {name: tensor.float() for name, tensor in rounded.items()} if back else rounded
    save_file(written, tmp_path / "model.safetensors")
    stored = weights(tmp_path)
    torch.testing.assert_close(
        stored["backbone.blocks.0.mlp.fc1.weight"],
        rounded["hyena.backbone.layers.0.mlp.fc1.weight"].float(),
        atol=0,
        rtol=0,
    )
    assert not caplog.records


def test_features_that_were_tuned_a_little(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state[FEATURES] += 5e-5 * torch.randn_like(state[FEATURES])
    save_file(state, tmp_path / "model.safetensors")
    assert_same(tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "layer 1's positional features were tuned" in record.message


def test_features_that_were_tuned_much(state: State, tmp_path: Path) -> None:
    state[FEATURES] += 0.03 * torch.randn_like(state[FEATURES]).clamp(-3, 3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(GenomeLMError, match=r"layer 1's positional features were tuned.*freeze them"):
        open_checkpoint(tmp_path)


def test_git_lfs_pointers(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 26000000\n"
    shutil.copytree(PORT, tmp_path / "hf")
    for name in ("model.safetensors", "config.json"):
        shutil.copytree(PORT, tmp_path / name)
        (tmp_path / name / name).write_text(pointer)
        with pytest.raises(GenomeLMError, match=f"{name}: this is a Git LFS pointer.*run `git lfs pull`"):
            open_checkpoint(tmp_path / name)
    (tmp_path / "a.ckpt").write_text(pointer)
    with pytest.raises(GenomeLMError, match="this is a Git LFS pointer"):
        open_checkpoint(tmp_path / "a.ckpt")
