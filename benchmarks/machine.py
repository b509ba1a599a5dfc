"""The machine: two cores, the processes' own clocks and memory, and a few facts.

CPU time is read from each process's CPU clock: nanoseconds, all its threads, the ended
ones too. /proc/PID/stat counts in hundredths of a second and /proc/PID/schedstat knows
the first thread only.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from problems import CannotRun, ServerFailed

#: ``CPUCLOCK_SCHED`` of the kernel's posix-timers.h: the clock id of a process is its
#: complemented id above these three bits.
_CPUCLOCK_SCHED = 2

KIB = 1024


@dataclass(frozen=True)
class Cores:
    server: int
    client: int


def require_tools(*tools: str) -> None:
    """:raises CannotRun: naming the Debian package of each tool that is missing."""
    packages = {
        "curl": "curl",
        "h2load": "nghttp2-client",
        "openssl": "openssl",
        "taskset": "util-linux",
        "wrk": "wrk",
    }
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        install = " ".join(sorted({packages[tool] for tool in missing}))
        raise CannotRun(f"{', '.join(missing)} not found: apt install {install}")


def two_cores() -> Cores:
    """A core for the server and one for the client, not two threads of one core if
    there is a choice.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise CannotRun(
            "Two CPU cores are needed, one for the server and one for the client; "
            f"this process may use {len(allowed)}."
        )
    client, *others = allowed
    siblings = _siblings(client)
    apart = [core for core in others if core not in siblings]
    return Cores(server=(apart or others)[-1], client=client)


def _siblings(core: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text().strip()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def allow_open_files(count: int) -> None:
    """Let this process and its children have ``count`` files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise CannotRun(
            f"{count} open files are needed, and the hard limit is {hard}: "
            f"raise it with 'ulimit -Hn {count}' as root."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


# -- Processes -------------------------------------------------------------------------


def session_members(session: int) -> list[int]:
    """The live processes of a session: a server, its workers and their helpers.

    A session, not a tree: a worker whose parent has died still belongs to it.
    """
    members = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        # The command's name, in parentheses, may hold spaces and parentheses.
        state, _parent, _group, of_session, *_ = stat.rpartition(")")[2].split()
        if int(of_session) == session and state not in "ZX":
            members.append(int(entry))
    return members


def cpu_clocks(session: int) -> dict[int, float]:
    """CPU seconds used so far by each process of a session."""
    clocks = {}
    for pid in session_members(session):
        try:
            clocks[pid] = time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError as error:
            raise ServerFailed(f"process {pid} ended while measured") from error
    return clocks


def cpu_seconds_between(before: dict[int, float], after: dict[int, float]) -> float:
    """:raises ServerFailed: if processes came or went: their time would be lost."""
    if before.keys() != after.keys():
        gone, new = len(before.keys() - after.keys()), len(after.keys() - before.keys())
        raise ServerFailed(f"{gone} processes ended and {new} began while measured")
    return sum(after.values()) - sum(before.values())


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a session. ``resident`` (RSS) counts a shared page once
    for each process, ``proportional`` (PSS) splits it among all that share it.
    """

    resident: int
    proportional: int


def memory(session: int) -> Memory:
    resident = proportional = 0
    for pid in session_members(session):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError as error:
            raise ServerFailed(f"process {pid} ended while measured") from error
        for line in rollup.splitlines():
            key, _, value = line.partition(":")
            if key == "Rss":
                resident += int(value.split()[0]) * KIB
            elif key == "Pss":
                proportional += int(value.split()[0]) * KIB
    return Memory(resident, proportional)


# -- Facts -----------------------------------------------------------------------------


def facts(cores: Cores) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "server core": cores.server,
        "client core": cores.client,
        "load average": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
