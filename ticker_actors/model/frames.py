"""WebSocket frames (RFC 6455, section 5.2). A server's are not masked: one serves every client."""

_TEXT = 0x81
"""The last, and only, frame of a text."""
_SHORT, _MEDIUM = 126, 65_536
"""Payloads from here on have a length of 2, and of 8 bytes."""


def text_frame(text: bytes) -> bytes:
    """The frame of a whole text message, in UTF-8, not compressed."""
    size = len(text)
    if size < _SHORT:
        return bytes((_TEXT, size)) + text
    if size < _MEDIUM:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + text
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + text
