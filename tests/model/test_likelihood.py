import torch
import torch.nn.functional as F

from genome_lm.alphabet import encode
from genome_lm.model.likelihood import base_losses, base_table, log_likelihoods


def test_each_base_by_the_logits_before_it() -> None:
    ids = torch.from_numpy(encode("ACGTNACG"))[None].long()
    logits = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0)) * 3
    counted = [1, 2, 3, 5, 6, 7]
    expected = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")[[at - 1 for at in counted]]
    for given in (logits, logits[:, :-1]):  # the last token need not be read
        losses = base_losses(given, ids)
        assert losses[0].isnan().nonzero()[:, 0].tolist() == [0, 4]
        assert torch.equal(losses[0, counted], expected)
        torch.testing.assert_close(log_likelihoods(given, ids), -losses, equal_nan=True)
    before, bases = [at - 1 for at in counted], ids[0, counted] - 7
    expected = F.cross_entropy(logits[0, before, 7:11], bases, reduction="none")
    torch.testing.assert_close(log_likelihoods(logits, ids, "acgt")[0, counted], -expected)


def test_the_table_has_a_row_per_base_and_one_for_the_next() -> None:
    logits = torch.randn(2, 5, 16, dtype=torch.float64)
    table = base_table(logits)
    assert table.shape == (2, 6, 4)
    assert table.dtype == torch.float64
    assert table[:, 0].isnan().all()
    torch.testing.assert_close(table[:, 1:], logits.softmax(-1)[..., 7:11].log())
    assert base_table(logits.bfloat16()).dtype == torch.float32
