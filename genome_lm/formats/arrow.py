"""NumPy's arrays and texts as Arrow's, and back.

`pyarrow.array` and `to_numpy` import pandas to ask whether the values are its own, a quarter of a second in each
process. These give the same arrays by their buffers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_MOST_TEXT = 2**31 - 1
"""Bytes that the offsets of Arrow's `string` reach."""


def numbers_array(values: npt.ArrayLike, kind: pa.DataType | None = None) -> pa.Array:
    """Numbers (n,) as an Arrow array without missing values, of type `kind` or of their own dtype."""
    array = np.ascontiguousarray(values, dtype=None if kind is None else kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(array)])


def texts_array(texts: Sequence[str]) -> pa.Array | pa.ChunkedArray:
    """Texts as an Arrow array of type `string`; over 2 GiB, in chunks."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    if offsets[-1] > _MOST_TEXT:
        return pa.array(texts)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def repeated_text(text: str, count: int) -> list[pa.Array]:
    """A text so many times, as Arrow arrays of type `string` end to end: one, or several if they are over 2 GiB."""
    encoded = text.encode()
    most = _MOST_TEXT // max(1, len(encoded))
    counts = [min(most, count - at) for at in range(0, count, most)]
    offsets = np.arange(max(counts, default=0) + 1, dtype=np.int32) * len(encoded)
    return [
        pa.Array.from_buffers(pa.string(), number, [None, pa.py_buffer(offsets), pa.py_buffer(encoded * number)])
        for number in counts
    ]


def column_array(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column of texts or numbers as an Arrow array of type `kind`."""
    return texts_array([str(text) for text in values]) if pa.types.is_string(kind) else numbers_array(values, kind)


def numbers_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers (n,) of a column without missing values; lists end to end. The array can't be written to."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # older versions of pyarrow give several chunks, or one, as they are
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_nested(array.type):
        array = array.flatten()
    values = np.frombuffer(array.buffers()[1] or b"", dtype=array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
