"""The model of the original's own standalone file, standalone_hyenadna.py of HazyResearch/hyena-dna, as it is.

The file is Python code that the user names, and it is run. It imports einops, torchvision and transformers, also from
its own folder, where a stand-in for torchvision is seen by no other side.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch.nn.functional as F
from torch import Tensor

from genome_lm.bench.original import refuse_other_models
from genome_lm.bench.peers import PeerLM
from genome_lm.checkpoint.hyenadna import EMBEDDING, HEAD, names, to_theirs
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM


class OriginalFileLM(PeerLM):
    """The file's `HyenaDNAModel` with the weights of one of ours and a tied head, as it was trained.

    Raises:
        GenomeLMError: If the model has another order or layout, or the file can't be run or holds no such model.
    """

    def __init__(self, path: Path, model: HyenaLM) -> None:
        super().__init__()
        config = model.config
        refuse_other_models(config)
        layer = {
            "_name_": "hyena", "emb_dim": config.emb_dim, "filter_order": config.filter_order, "lr_pos_emb": 0.0,
            "l_max": config.filter_length, "num_inner_mlps": config.num_inner_mlps, "w": config.sine_frequency,
        }  # fmt: skip
        try:
            self.model = _run(path).HyenaDNAModel(
                d_model=config.d_model, n_layer=config.n_layer, d_inner=config.d_inner, vocab_size=12, layer=layer,
                resid_dropout=config.resid_dropout, embed_dropout=config.embed_dropout, pad_vocab_size_multiple=8,
            )  # fmt: skip
            state = to_theirs(model, "")
            del state[HEAD]
            missing = self.model.load_state_dict(state, strict=False).missing_keys
        except (AttributeError, RuntimeError, TypeError) as error:
            raise GenomeLMError(f"{path}: not the original's standalone file: {error}") from error
        # A filter's activations share one frequency, which has a key for each of them.
        if other := [key for key in missing if not key.endswith(".freq")]:
            raise GenomeLMError(f"{path}: not the original's standalone file: its model also has {other[0]}")
        theirs = dict(self.model.named_parameters())
        self._embedding = theirs[EMBEDDING]
        self.ordered = [theirs[names(config)[name]] for name, _ in model.named_parameters()]

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the token after each position: (B, L) ids → (B, L, 16)."""
        return F.linear(self.model(ids), self._embedding)


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("original_standalone_file", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise GenomeLMError(f"{path}: no Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise GenomeLMError(f"{path}: needs what is not installed: {error}") from error
    finally:
        sys.path.pop(0)
    return module
