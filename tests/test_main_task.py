"""A server's coroutine among tasks that exit and users who interrupt."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import unittest
from collections.abc import Callable

from django_daphne.server import main_task
from django_daphne.server.process import new_event_loop

from .serving import PATIENCE, ROOT

LOOPS: tuple[Callable[[], asyncio.AbstractEventLoop], ...] = (
    new_event_loop,
    asyncio.new_event_loop,
)

INTERRUPTED = """
import asyncio, signal, sys
from django_daphne.server import main_task
from django_daphne.server.process import new_event_loop

signal.signal(signal.SIGINT, signal.default_int_handler)

async def leave():
    sys.exit("not yet")

async def main():
    if "exit" in sys.argv:
        gone = asyncio.ensure_future(leave())
        await asyncio.sleep(0.1)
        gone.exception()
    print("up", flush=True)
    try:
        await asyncio.sleep(1000)
    finally:
        print("cleaned up", flush=True)

main_task.run(main(), new_event_loop)
"""


async def leave(error: BaseException) -> None:
    raise error


class MainTask(unittest.TestCase):
    def test_its_result(self) -> None:
        async def main() -> int:
            return 5

        for loop in LOOPS:
            self.assertEqual(main_task.run(main(), loop), 5)

    def test_what_it_raises_itself(self) -> None:
        for error in (ValueError, SystemExit, KeyboardInterrupt):
            for loop in LOOPS:
                with self.assertRaises(error):
                    main_task.run(leave(error()), loop)

    def test_other_tasks_that_exit(self) -> None:
        async def main() -> list[str]:
            names = []
            for error in (SystemExit(3), KeyboardInterrupt(), SystemExit(4)):
                task = asyncio.ensure_future(leave(error))
                await asyncio.wait([task])
                names.append(type(task.exception()).__name__)
            return names

        for loop in LOOPS:
            with self.assertLogs("django_daphne.server", "ERROR") as logs:
                self.assertEqual(
                    main_task.run(main(), loop),
                    ["SystemExit", "KeyboardInterrupt", "SystemExit"],
                )
            self.assertEqual(len(logs.records), 3)
            self.assertIn("test_main_task.py, line", logs.output[0])

    def test_an_interrupt(self) -> None:
        """Where nobody handles signals, it ends as under ``asyncio.run``."""
        for argument in ("", "exit"):
            with subprocess.Popen(
                [sys.executable, "-c", INTERRUPTED, argument],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout is not None
                self.assertEqual(process.stdout.readline(), "up\n")
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=PATIENCE)
            self.assertEqual(out, "cleaned up\n")
            self.assertTrue(err.rstrip().endswith("KeyboardInterrupt"), err)
            self.assertEqual("it goes on" in err, argument == "exit")
