from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import genome_lm
from genome_lm.checkpoint import save_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import finetune
from genome_lm.model import HyenaLM
from tests.finetune.test_finetune import rich, run_config
from tests.tiny import TINY_MODEL


@pytest.mark.parametrize("method", ["frozen", "prompt"])
def test_a_model_that_is_tuned_under_a_condition_predicts_under_it(tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    model = HyenaLM(replace(TINY_MODEL, conditions=("fly", "worm")))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)
    checkpoint = save_checkpoint(tmp_path / "checkpoint", model)
    labelled = rich(60)
    config = run_config(method=method, epochs=1, condition="worm")
    finetune(checkpoint, labelled, tmp_path / "tuned", "classification", config)
    written = pd.read_parquet(tmp_path / "tuned/predictions.parquet")[["p_high", "p_low"]].to_numpy()
    sequences = [example.sequence for example in labelled.of_split("test").examples]
    tuned = genome_lm.load(tmp_path / "tuned/checkpoint")
    assert tuned.condition == "worm"
    np.testing.assert_allclose(np.stack(tuned.predict(sequences)), written, atol=1e-5)
    tuned.condition = "fly"
    assert np.abs(np.stack(tuned.predict(sequences)) - written).max() > 1e-4
    with pytest.raises(GenomeLMError, match="checkpoint: this model has no condition 'ape'; it has fly, worm"):
        finetune(checkpoint, labelled, tmp_path / "other", "classification", replace(config, condition="ape"))
