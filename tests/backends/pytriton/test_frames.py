from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from launcher.backends.pytriton.frames import Frame, FrameDecoder, pack

arrays = st.one_of(
    st.lists(st.integers(0, 255)).map(lambda values: np.array(values, np.uint8)),
    st.lists(st.floats(allow_nan=False)).map(lambda values: np.array(values, np.float64).reshape(-1, 1)),
    st.binary().map(lambda value: np.array([value], object)),
)
frames = st.builds(
    Frame,
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.text(), arrays, max_size=3),
    st.text(),
    st.binary(),
    st.booleans(),
)


@given(st.lists(frames, max_size=4), st.integers(1, 50))
def test_frames_arrive_as_they_were_sent_however_they_are_cut(sent: list[Frame], size: int) -> None:
    stream, reader = b"".join(map(pack, sent)), FrameDecoder()
    found = [frame for i in range(0, len(stream), size) for frame in reader.decode(stream[i : i + size])]
    assert [(f.id, f.text, f.final, [*f.tensors]) for f in found] == [
        (f.id, f.text, f.final, [*f.tensors]) for f in sent
    ]
    for one, other in zip(found, sent, strict=True):
        for name, array in other.tensors.items():
            assert one.tensors[name].dtype == array.dtype
            assert np.array_equal(one.tensors[name], array)
