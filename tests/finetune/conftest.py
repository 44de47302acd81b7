import pytest


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, and short words for the baseline: what the tests look at does not depend on them."""
    monkeypatch.setattr("genome_lm.finetune.run.RESAMPLES", 20)
    monkeypatch.setattr("genome_lm.dataset.baselines.WIDTHS", (2,))
