import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import genome_lm
from genome_lm.alphabet import decode
from genome_lm.checkpoint import export_checkpoint, extend_context, open_checkpoint, save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM

FIXTURES = Path(__file__).parents[1] / "data" / "hyenadna"
FORMS = ["a.hf", "a.lightning.ckpt", "a.lightning-checkpointed.ckpt", "b.hf", "b.lightning.ckpt"]
CASES = [(form, length) for form in FORMS for length in ((64, 200, 258) if form[0] == "a" else (333, 1026))]


def expected(form: str, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    golden = load_file(FIXTURES / f"{form[0]}.expected.safetensors")
    return tuple(golden[f"{kind}_{length}"] for kind in ("input_ids", "hidden", "logits"))  # type: ignore[return-value]


def test_every_golden_length_is_a_case() -> None:
    for name in "ab":
        lengths = {int(key.split("_")[-1]) for key in load_file(FIXTURES / f"{name}.expected.safetensors")}
        assert lengths == {length for form, length in CASES if form[0] == name}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("form", "length"), CASES)
def test_equal_to_the_original(form: str, length: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", backend)
    model = genome_lm.load(FIXTURES / form, "cpu")
    ids, hidden, logits = expected(form, length)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(ids), hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.logits(ids), logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["a.hf", "b.lightning.ckpt"])
def test_equal_through_batches_of_unequal_length(form: str) -> None:
    model = genome_lm.load(FIXTURES / form, "cpu")
    sequences, golden = [], []
    for _, length in [case for case in CASES if case[0] == form]:
        ids, hidden, _ = expected(form, length)
        for row in range(len(ids)):
            # Only rows that are DNA all through, and within the context that two special tokens leave.
            if int(ids[row].min()) >= 7 and length <= model.config.max_length:
                sequences.append(decode(ids[row].numpy()))
                golden.append(hidden[row])
    assert sequences, "no golden row is plain DNA"
    embedded = model.embed(sequences, pool="none", batch_tokens=700)
    for one, other in zip(embedded, golden, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_import_and_export_are_exact(form: str, tmp_path: Path) -> None:
    opened = open_checkpoint(FIXTURES / form)
    save_checkpoint(tmp_path / "native", opened.model, opened.provenance)
    export_checkpoint(open_checkpoint(tmp_path / "native").model, tmp_path / "hf", "hf")
    golden, exported = (
        load_file(folder / "model.safetensors") for folder in (FIXTURES / f"{form[0]}.hf", tmp_path / "hf")
    )
    assert exported.keys() == golden.keys()
    for name, tensor in golden.items():
        if "pos_emb" in name:
            torch.testing.assert_close(exported[name], tensor, atol=1e-6, rtol=0)
        else:
            torch.testing.assert_close(exported[name], tensor, atol=0, rtol=0)
    told = json.loads((FIXTURES / f"{form[0]}.hf" / "config.json").read_text())
    assert json.loads((tmp_path / "hf" / "config.json").read_text()) == told
    export_checkpoint(opened.model, tmp_path / "one.safetensors", "safetensors")
    again = open_checkpoint(tmp_path / "one.safetensors").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in opened.model.state_dict().items())
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["n_layer"] == opened.model.config.n_layer


@pytest.mark.parametrize(
    "shape",
    [
        {"order": 3},
        {"order": 4, "d_model": 12, "filter_order": 20},
        {"emb_dim": 3, "filter_order": 5, "num_inner_mlps": 0},
        {"num_inner_mlps": 4, "short_filter_order": 5, "d_inner": 24, "emb_dim": 9},
    ],
)
def test_other_shapes_are_inferred_from_the_tensors(shape: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(**{"d_model": 16, "n_layer": 2, "max_length": 62, **shape})).eval()
    export_checkpoint(model, tmp_path / "hf", "hf")
    (tmp_path / "hf" / "config.json").unlink()
    opened = open_checkpoint(tmp_path / "hf").model
    assert opened.config == model.config
    ids = torch.randint(7, 11, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(opened(ids), model(ids), atol=0, rtol=0)


def test_pytorch_model_bin(tmp_path: Path) -> None:
    state = load_file(FIXTURES / "a.hf" / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    shutil.copy(FIXTURES / "a.hf" / "config.json", tmp_path)
    ids, hidden, _ = expected("a", 64)
    with torch.no_grad():
        torch.testing.assert_close(open_checkpoint(tmp_path).model.backbone(ids), hidden, atol=1e-5, rtol=0)


def test_counts_of_the_original_s_training_are_passed_over(tmp_path: Path) -> None:
    state = {f"model.{key}": tensor for key, tensor in load_file(FIXTURES / "a.hf" / "model.safetensors").items()}
    state = {key.replace("model.hyena.", "model."): tensor for key, tensor in state.items()}
    torch.save({"state_dict": {**state, "val_torchmetrics.num_tokens.count": torch.tensor(5)}}, tmp_path / "a.ckpt")
    assert open_checkpoint(tmp_path / "a.ckpt").model.config.d_model == 32


def test_what_only_the_config_tells(tmp_path: Path) -> None:
    told = {"layer_norm_epsilon": 0.1, "embed_dropout": 0.3, "hyena_dropout": 0.2, "activation_freq": 4}
    (broken(tmp_path) / "config.json").write_text(json.dumps(told))
    config = open_checkpoint(tmp_path).model.config
    settings = config.layer_norm_epsilon, config.embed_dropout, config.resid_dropout, config.sine_frequency
    assert settings == (0.1, 0.3, 0.2, 4)


def broken(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a.hf without its config, with tensors replaced or (None) left out; `__` stands for a dot."""
    state = load_file(FIXTURES / "a.hf" / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


def test_all_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    changes = {
        "hyena__backbone__ln_f__weight": None,
        "hyena__backbone__layers__1__norm1__bias": torch.zeros(5),
        "hyena__backbone__layers__0__attention__weight": torch.zeros(5),
        "lm_head__weight": torch.zeros(16, 32),
        "hyena__backbone__layers__0__mixer__filter_fn__pos_emb__z": torch.zeros(1, 258, 5),
    }
    with pytest.raises(GenomeLMError) as caught:
        open_checkpoint(broken(tmp_path, **changes))
    for part in (
        "missing backbone.ln_f.weight",
        "backbone.layers.1.norm1.bias is (5,), should be like (32,)",
        "superfluous backbone.layers.0.attention.weight",
        "lm_head.weight differs from backbone.embeddings.word_embeddings.weight",
        "backbone.layers.0.mixer.filter_fn.pos_emb.z is not HyenaDNA's positional features",
    ):
        assert part in str(caught.value)


def test_another_vocabulary(tmp_path: Path) -> None:
    changes = {"hyena__backbone__embeddings__word_embeddings__weight": torch.zeros(4096, 32)}
    with pytest.raises(GenomeLMError, match="another vocabulary"):
        open_checkpoint(broken(tmp_path, **changes))


def test_another_architecture_is_named(tmp_path: Path) -> None:
    save_file({"esm.embeddings.weight": torch.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(GenomeLMError, match=r"not a HyenaDNA language model; it holds esm\.embeddings\.weight"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "caduceus"}, "'caduceus' model, not of HyenaDNA"),
        ({"d_model": 256}, "says d_model 256, the tensors 32"),
        ({"max_seq_len": 1026}, "says max_seq_len 1026, the tensors 258"),
        ({"vocab_size": 4096}, "a vocabulary of 4096"),
        ({"model": {"layer": {"l_max": 1026}}}, "says l_max 1026"),
        ({"layer": {"modulate": False}}, "no window"),
    ],
)
def test_a_config_that_belongs_to_something_else(tmp_path: Path, config: dict[str, object], message: str) -> None:
    (broken(tmp_path) / "config.json").write_text(json.dumps(config))
    with pytest.raises(GenomeLMError, match=message):
        open_checkpoint(tmp_path)


def test_extending_stretches_the_filters() -> None:
    model = open_checkpoint(FIXTURES / "a.hf").model
    extended = extend_context(model, 2 * model.config.filter_length - 1 - 2)
    assert extended.config.max_length == 513
    for before, after in zip(model.backbone.blocks, extended.backbone.blocks, strict=True):
        short, long = before.mixer.filter, after.mixer.filter
        # Every second position of the longer filter's axis lies on one of the shorter's.
        torch.testing.assert_close(long.window(515)[:, ::2], short.window(258))
        torch.testing.assert_close(long.times(515)[::2], short.times(258))
    ids = torch.randint(7, 11, (1, 513))
    with torch.no_grad():
        assert extended(ids).shape == (1, 513, 16)
    with pytest.raises(GenomeLMError, match="no extension"):
        extend_context(model, 256)
