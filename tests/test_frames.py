"""Frames that are made by hand are those that a library makes."""

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from ticker_actors.model.frames import text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_frame_is_what_wsproto_makes(size: int) -> None:
    """At every form of length."""
    text = b"x" * size
    library = FrameProtocol(client=False, extensions=[])
    assert text_frame(text) == library._serialize_frame(Opcode.TEXT, text)
