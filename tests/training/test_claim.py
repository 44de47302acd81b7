from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.training.run import _claim


def test_more_steps_for_a_finished_run_are_shown_the_way(tmp_path: Path) -> None:
    identity = {"model": {"d_model": 16}, "training": {"stages": [[32, 30]]}}
    assert not _claim(tmp_path, identity, False, 0)
    assert _claim(tmp_path, identity, False, 0)
    longer = {**identity, "training": {"stages": [[32, 60]]}}
    with pytest.raises(GenomeLMError) as caught:
        _claim(tmp_path, longer, False, 0)
    assert f"--init {tmp_path / 'checkpoint'} to train its model further" in str(caught.value)
    assert "--restart-if-changed" in str(caught.value)
