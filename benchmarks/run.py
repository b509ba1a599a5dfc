#!/usr/bin/env python3
"""Measure this server beside its peers: ``python3 benchmarks/run.py``.

Server and client each have a core. In every round each server is started afresh, shown
to answer rightly, warmed up, measured and ended, before the next has its turn; the
order moves by one from round to round. So whatever else the machine does falls on all
alike. See README.rst for what is assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import environment
import machine
from cases import Case, all_cases
from certificate import certificate
from chart import chart
from problems import CannotRun, DidNotStart, ServerFailed
from results import CaseResult, Row
from running import run_server
from servers import SERVERS, Server
from table import table

RESULTS = environment.HERE / "results"

#: Load average above which the server's core is shared with somebody else's work.
BUSY = 1.0

#: For the estimate alone: starting, verifying, warming up and ending a server.
OVERHEAD_SECONDS = 4


def main() -> int:
    options = _parse_command_line()
    signal.signal(signal.SIGTERM, _leave)
    try:
        return _run(options)
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _leave(_number: int, _frame: object) -> NoReturn:
    # An exception, so that every running server is ended on the way out.
    raise SystemExit(128 + signal.SIGTERM)


def _run(options: argparse.Namespace) -> int:
    if not sys.platform.startswith("linux"):
        raise CannotRun("The benchmarks read Linux's /proc and pin processes to cores.")
    machine.require_tools(
        "taskset", *(tool for case in options.cases for tool in case.tools)
    )
    machine.allow_open_files(max(case.open_files for case in options.cases))
    cores = machine.two_cores()
    not_installed = environment.prepare()
    if not_installed:
        _say(f"This project cannot be installed: {not_installed}")
    about = _about(options, cores)
    if os.getloadavg()[0] > BUSY:
        _say("The machine is busy: trust the ratios more than the figures.")

    results = []
    for case in options.cases:
        rows = [
            Row(server) for server in options.servers if case.needs in server.speaks
        ]
        if rows:
            results.append(CaseResult(case, rows))
    if not results:
        raise CannotRun("None of these servers speaks what these cases need.")
    _estimate(results, options)
    for result in results:
        _measure_case(result, result.case(cores, options.seconds), options.rounds)

    text = _heading(about) + "\n\n" + "\n".join(map(table, results))
    print(text)
    _write(options, about, results, text)
    return 0 if all(row.rounds for result in results for row in result.rows) else 1


# -- Measuring -------------------------------------------------------------------------


def _measure_case(result: CaseResult, case: Case, rounds: int) -> None:
    for number in range(1, rounds + 1):
        for row in _in_turn(result.rows, number):
            if row.out:
                continue
            _say(f"{case.name}  round {number}/{rounds}  {row.server.name}")
            try:
                row.rounds[number] = _measure(row.server, case)
            except DidNotStart as error:
                row.out = True
                row.failures.append(f"did not start: {error}")
            except ServerFailed as error:
                row.failures.append(f"failed in round {number}: {error}")


def _in_turn(rows: list[Row], number: int) -> Iterator[Row]:
    first = (number - 1) % len(rows)
    yield from rows[first:]
    yield from rows[:first]


def _measure(server: Server, case: Case) -> dict[str, float]:
    tls = certificate() if case.tls else None
    with run_server(server, case.app, case.cores.server, tls) as running:
        try:
            case.verify(running)
            case.warm_up(running)
            return case.measure(running)
        except ServerFailed as error:
            raise ServerFailed(f"{error}\n{running.tail()}") from error


# -- Reporting -------------------------------------------------------------------------


def _about(options: argparse.Namespace, cores: machine.Cores) -> dict[str, object]:
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "revision": environment.revision(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": machine.facts(cores),
        "versions": environment.versions(),
    }


def _heading(about: dict[str, object]) -> str:
    facts, versions = about["machine"], about["versions"]
    assert isinstance(facts, dict) and isinstance(versions, dict)
    packages = sorted({server.package for server in SERVERS} | {"uvloop"})
    return "\n".join(
        [
            f"{about['date']}, revision {about['revision']}, "
            f"{about['rounds']} rounds of {about['seconds']} s",
            ", ".join(f"{key} {value}" for key, value in facts.items()),
            ", ".join(
                f"{name} {versions.get(name, '(not installed)')}"
                for name in ["python", *packages]
            ),
        ]
    )


def _estimate(results: list[CaseResult], options: argparse.Namespace) -> None:
    rows = sum(len(result.rows) for result in results)
    minutes = rows * options.rounds * (options.seconds + OVERHEAD_SECONDS) / 60
    _say(f"{rows} rows, {options.rounds} rounds: about {minutes:.0f} minutes")


def _write(
    options: argparse.Namespace,
    about: dict[str, object],
    results: list[CaseResult],
    text: str,
) -> None:
    name = time.strftime("%Y%m%d-%H%M%S")
    measured = {result.case.name: result.as_json() for result in results}
    versions = about["versions"]
    assert isinstance(versions, dict)
    files = {
        options.json or RESULTS / f"{name}.json": json.dumps(
            about | {"cases": measured}, indent=1
        ),
        options.svg or RESULTS / f"{name}.svg": chart(
            results,
            "What a request costs",
            f"Bar: median of the rounds ({options.rounds}). Line: lowest to highest. "
            f"Python {versions['python']}, {about['date']}",
        ),
        RESULTS / f"{name}.txt": text + "\n",
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        _say(f"Written: {os.path.relpath(path)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# -- Command line ----------------------------------------------------------------------


def _parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases",
        type=_cases,
        default=all_cases(),
        metavar="NAME,...",
        help="of " + ", ".join(case.name for case in all_cases()),
    )
    parser.add_argument(
        "--servers",
        type=_servers,
        default=SERVERS,
        metavar="NAME,...",
        help="rows or whole packages, of " + ", ".join(row.name for row in SERVERS),
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="default: 3")
    parser.add_argument(
        "--seconds", type=_positive, default=4, help="of load a round, default: 4"
    )
    parser.add_argument("--json", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--svg", type=Path, help="default: in benchmarks/results")
    return parser.parse_args()


def _cases(text: str) -> list[type[Case]]:
    known = {case.name: case for case in all_cases()}
    return [known[name] for name in _known_names(text, set(known))]


def _servers(text: str) -> list[Server]:
    names = {row.name for row in SERVERS} | {row.package for row in SERVERS}
    wanted = _known_names(text, names)
    return [row for row in SERVERS if row.name in wanted or row.package in wanted]


def _known_names(text: str, known: set[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} is none of {', '.join(sorted(known))}"
        )
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("a whole number above 0, please")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
