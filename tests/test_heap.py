"""What is big is given back to the system."""

import platform
import subprocess
import sys

import pytest

MEASURED = """
import ctypes
from ticker_actors.heap import BIG_BYTES, give_back_big_pieces

class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage
HELD
big = bytes(8 * BIG_BYTES)
del big
before = library.mallinfo2().hblkhd
big = bytes(4 * BIG_BYTES)
print(library.mallinfo2().hblkhd - before >= len(big))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("held", [True, False], ids=["held to it", "left alone"])
def test_big_pieces_stay_out_of_the_heap(*, held: bool) -> None:
    """Also after a bigger one was freed, when glibc would begin to take them out of the heap."""
    code = MEASURED.replace("HELD", "assert give_back_big_pieces()" if held else "")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == str(held)
