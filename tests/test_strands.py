from enum import StrEnum
from typing import get_args

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.finetune import METHODS
from genome_lm.model import HEAD_POOLS, TASKS
from genome_lm.model.head import Opposites
from genome_lm.strands import EmbeddedStrands, HeadStrands, Strands, check_strand, orientations
from genome_lm_cli import finetune, options


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (options.Strand, get_args(Strands)),
        (options.EmbeddedStrand, get_args(EmbeddedStrands)),
        (options.HeadStrand, get_args(HeadStrands)),
        (finetune.Method, METHODS),
        (finetune.Pool, HEAD_POOLS),
        (finetune.Task, TASKS),
        (finetune.Opposites, get_args(Opposites)),
    ],
)
def test_the_command_line_has_the_words_of_the_library(choices: type[StrEnum], words: tuple[str, ...]) -> None:
    assert tuple(choices) == words


def test_words() -> None:
    assert [orientations(word) for word in get_args(Strands)] == [(False,), (True,), (False, True)]
    for words, message in ((Strands, "use forward, reverse or both"), (HeadStrands, "use forward or both")):
        with pytest.raises(GenomeLMError, match=message):
            check_strand("concat", words)
