"""Who writes an account: a process, named so that another one on the same host can tell it is gone.

A `kill -9` must not cost the wait for a lease: where the dead can be told from the living, the
next start takes over at once.
"""

import os
import socket
from pathlib import Path


def this_process() -> str:
    """Host, boot, pid namespace, pid and start time of this process."""
    return "/".join((*_here(), str(os.getpid()), _started(os.getpid()) or "?"))


def is_gone(owner: str) -> bool:
    """Whether that process has certainly ended. False when it cannot be known from here."""
    *where, pid, started = ("", "", *owner.split("/"))[-5:]
    if tuple(where) != _here() or "?" in owner or not pid.isdecimal():
        return False
    return _started(int(pid)) != started  # a pid is used again, but not with the same start


def shown(owner: str) -> str:
    """For people."""
    host, *_, pid, _ = ("?", *owner.split("/"))[-5:]
    return f"process {pid} on {host}"


def _here() -> tuple[str, str, str]:
    """What must be the same for a pid to mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # no Linux: nobody can tell, so a lease is waited out
        boot = namespace = "?"
    return socket.gethostname(), boot, namespace


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the boot; None when there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *_ = fields = status.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in {"Z", "X"} else fields[19]  # proc(5), field 22
