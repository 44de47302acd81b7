"""Arrow's arrays by their buffers equal those that Arrow makes itself."""

import numpy as np
import pyarrow as pa
import pytest

from genome_lm.formats.arrow import column_array, numbers_array, numbers_of, repeated_text, texts_array


@pytest.mark.parametrize("texts", [[], [""], ["one", "", "ZWÖ", "三"]])
def test_texts_are_those_of_arrow(texts: list[str]) -> None:
    made = texts_array(texts)
    made.validate(full=True)
    assert made.equals(pa.array(texts, pa.string()))
    assert made.to_pylist() == texts


@pytest.mark.parametrize(("text", "count", "arrays"), [("ZWÖ", 7, 3), ("ab", 3, 1), ("", 4, 1), ("a", 0, 0)])
def test_a_repeated_text_is_itself_so_many_times(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int, arrays: int
) -> None:
    monkeypatch.setattr("genome_lm.formats.arrow._MOST_TEXT", 13)
    made = repeated_text(text, count)
    assert len(made) == arrays
    for array in made:
        array.validate(full=True)
    assert pa.chunked_array(made, pa.string()).to_pylist() == [text] * count


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8"])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_numbers_are_those_of_arrow_and_come_back(dtype: str, count: int) -> None:
    wide = np.arange(2 * count).astype(dtype)
    made = numbers_array(wide[::2])
    made.validate(full=True)
    assert made.equals(pa.array(wide[::2]))
    np.testing.assert_array_equal(numbers_of(made), wide[::2])
    np.testing.assert_array_equal(numbers_of(made.slice(count // 2)), wide[::2][count // 2 :])
    assert numbers_of(made).dtype == dtype
    chunked = pa.chunked_array([made, made.slice(count // 2)], made.type)
    np.testing.assert_array_equal(numbers_of(chunked), chunked.to_numpy())


def test_lists_come_back_end_to_end() -> None:
    lists = pa.FixedSizeListArray.from_arrays(numbers_array(np.arange(12, dtype=np.float32)), 3)
    np.testing.assert_array_equal(numbers_of(lists.slice(1, 2)), np.arange(3, 9))
    np.testing.assert_array_equal(
        numbers_of(pa.chunked_array([lists.slice(1, 2), lists])), [*range(3, 9), *range(12)]
    )


def test_a_column_has_the_type_that_is_asked_for() -> None:
    assert column_array([1, 2], pa.int64()).equals(pa.array([1, 2], pa.int64()))
    assert column_array([0.1, np.nan], pa.float32()).type == pa.float32()
    assert column_array(np.array(["a", "bc"], dtype=object), pa.string()).equals(pa.array(["a", "bc"]))
