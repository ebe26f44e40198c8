"""SQLite's promises, held against the system calls of a running service."""

import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.service.conftest import Start
from tests.service.harness import SERVE, database, paper, select
from tests.service.load import UNLIMITED, Load, assert_settled, in_paper_book

STOP_SECONDS = 30.0
"""A traced process on a slow machine."""
FAILS_AFTER = {"fdatasync": 60, "pwrite64": 800}
"""Calls: the start is over by then, and orders are coming."""

pytestmark = pytest.mark.slow


def strace_works(folder: Path) -> bool:
    """Whether a process may be traced here."""
    if shutil.which("strace") is None:
        return False
    trace = ["strace", "-o", str(folder / "probe"), "true"]
    return subprocess.run(trace, capture_output=True, check=False).returncode == 0


@pytest.fixture
def strace(tmp_path: Path) -> tuple[str, ...]:
    """The start of a command line that traces the rest of it, from a process of its own."""
    if not strace_works(tmp_path):
        pytest.skip("strace is not installed, or may not trace here")
    # -D: a signal to the service goes to the service.
    return ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(tmp_path / "trace"))


def settled(load: Load, folder: Path) -> None:
    """What was acknowledged is in the file, and placed once."""
    ask = partial(select, database(folder))
    book = partial(in_paper_book, paper(folder))
    assert_settled(load, ask, book, dead={"not_placed_proved"})  # cut off before its call


@pytest.mark.parametrize("call", FAILS_AFTER)
def test_an_error_of_the_disk_stops_it(
    start: Start, strace: tuple[str, ...], tmp_path: Path, call: str
) -> None:
    """It says so and exits 1; the next start has all that was acknowledged, and nothing twice."""
    file = database(tmp_path)
    only = [word for path in (file, f"{file}-wal") for word in ("-P", str(path))]
    fault = ("-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={FAILS_AFTER[call]}+")
    service = start(command=(*strace, *fault, *only, *SERVE), **UNLIMITED)
    service.crash_expected = True
    with Load(service) as load:
        assert service.wait(STOP_SECONDS) == 1
        before = len(load.acknowledged)
        assert "(INJECTED)" in (tmp_path / "trace").read_text()
        assert "a bug or a failing disk stopped it" in service.lines[-1]
        assert "I/O error" in service.text
        again = start(ABSENCE_HORIZON_SECONDS=1, **UNLIMITED)
        load.services[:] = [again]
        load.more()
    assert before > 0
    settled(load, again.folder)


def test_what_is_acknowledged_was_synced(
    start: Start, strace: tuple[str, ...], tmp_path: Path
) -> None:
    """Between an order's arrival and its 202 a sync of the log has begun and succeeded."""
    calls = ("-y", "-e", "trace=fdatasync,recvfrom,sendto,sendmsg,write")
    service = start(command=(*strace, *calls, *SERVE), **UNLIMITED)
    with Load(service) as load:
        load.more(30)
    service.signal(signal.SIGTERM)
    assert service.wait(STOP_SECONDS) == 0
    settled(load, service.folder)
    trace = (tmp_path / "trace").read_text().splitlines()
    acknowledged, too_soon = acknowledgements(trace)
    assert acknowledged >= len(load.acknowledged)
    assert too_soon == []
    without = [line for line in trace if "fdatasync" not in line]
    assert len(acknowledgements(without)[1]) == acknowledged  # it would have been seen


def acknowledgements(trace: Iterable[str]) -> tuple[int, list[str]]:
    """How many a trace shows, and those for which the log was not synced first."""
    asked: dict[str, int] = {}
    synced: list[tuple[int, int]] = []
    count, too_soon = 0, []
    for began, ended, call in finished(trace):
        file = call.partition("(")[2].partition(",")[0]
        if call.startswith("fdatasync") and "-wal>" in call and call.endswith("= 0"):
            synced.append((began, ended))
        elif call.startswith("recvfrom") and '"POST /orders' in call:
            asked[file] = ended
        elif call.startswith(("send", "write")) and '"HTTP/1.1 202' in call:
            count += 1
            if not any(asked[file] < first and last < began for first, last in synced):
                too_soon.append(call)
    return count, too_soon


def finished(trace: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """The calls of all threads as they end: the lines on which each begins and ends, and itself."""
    unfinished: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace):
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = (number, text.removesuffix("<unfinished ...>"))
        elif text.startswith("<... "):
            began, head = unfinished.pop(thread)
            yield began, number, head + text.partition("resumed>")[2]
        else:
            yield number, number, text
