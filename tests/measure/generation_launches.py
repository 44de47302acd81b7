"""Count the launches of a token of generation on a GPU, without one.

    python -m tests.measure.generation_launches

Operations that are no mere views are counted, and each function of the Triton kernels as its launches. The
convolution of a tile, which comes once per 64 tokens, is not among them.
"""

from typing import get_args

from genome_lm.config import ModelConfig
from genome_lm.model import HyenaLM
from tests.replaying import Form, launches_per_token

LAYOUTS = "hyena", "hyena-se", "hyena-mr", "attention", "attention-local", "attention-dilated", "attention-recall"
LAYERS = 8


def main() -> None:
    print(f"{LAYERS} layers of   ", *(f"{form:>9}" for form in get_args(Form)))
    for layout in LAYOUTS:
        model = HyenaLM(ModelConfig(d_model=64, n_layer=LAYERS, max_length=1_024, layout=layout)).eval()
        print(f"{layout:16}", *(f"{launches_per_token(model, form):9}" for form in get_args(Form)))


if __name__ == "__main__":
    main()
