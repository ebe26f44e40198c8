"""The C library's heap, kept from growing with the biggest thing that was ever read."""

import ctypes

BIG_BYTES = 128 * 1024
"""From this size on, memory is taken from the system and given back to it at once."""
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of `mallopt(3)`."""


def give_back_big_pieces() -> bool:
    """Hold the C library to `BIG_BYTES`. False where it is not glibc, and nothing is done.

    It is glibc's own default, but glibc raises it, to as much as 32 MB, each time that a bigger
    piece is freed. Then an order book of 3 MB comes out of the heap and leaves a hole there, in
    which the next small things settle, so that the next book makes the heap larger.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none
        return False
    return bool(set_option(_MMAP_THRESHOLD, BIG_BYTES))
