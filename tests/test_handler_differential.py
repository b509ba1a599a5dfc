"""Our handler beside Django's, on stacks of middleware that nobody thought of.

And beside itself with a fault: each mutant of the handler below has to be noticed, or
the comparison would say little.
"""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django.core.handlers.asgi import ASGIHandler
from django.test import SimpleTestCase
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from django_daphne.handler import Handler, exchange, hop, inside, segments, view
from django_daphne.handler.threads import threads

from .handler_stacks import (
    CHANGES,
    ENTRIES,
    EXITS,
    HOOKS,
    KINDS,
    RECEIVERS,
    VIEWS,
    Case,
    Middleware,
    observe,
)

#: Stacks that are compared each time. Another run compares others.
EXAMPLES = 150

#: How many a mutant may survive. Most live for fewer than twenty.
PATIENCE = 600


def _middleware() -> st.SearchStrategy[Middleware]:
    return st.builds(
        Middleware,
        kind=st.sampled_from(KINDS),
        entry=st.sampled_from((*ENTRIES, None)),
        exit=st.sampled_from((*EXITS, None)),
        view=st.sampled_from(HOOKS),
        exception=st.sampled_from(HOOKS),
        template=st.sampled_from(HOOKS),
        change=st.sampled_from(CHANGES),
        async_hooks=st.sampled_from((False, False, False, True)),
    )


def _cases() -> st.SearchStrategy[Case]:
    described = {
        "stack": st.lists(_middleware(), max_size=4).map(tuple),
        "view": st.sampled_from(VIEWS),
        "view_is_async": st.booleans(),
    }
    staying = st.builds(Case, receivers=st.sampled_from(RECEIVERS), **described)
    # Where an asynchronous receiver runs beside a thread that is still busy for a
    # client that has gone, the order of the two is chance.
    leaving = st.builds(
        Case,
        receivers=st.sampled_from(RECEIVERS[:2]),
        leaves_at=st.integers(0, 10),
        **described,
    )
    return staying | leaving


#: Rare among those above: the client leaves in a synchronous middleware after which
#: Django does not stop, with something asynchronous still to come.
RARE = Case(
    stack=(Middleware(kind="mixin-sync-only"), Middleware(kind="async-class")),
    view_is_async=True,
    leaves_at=0,
)


class Different(AssertionError):
    """The two handlers did not do the same."""


def _compare(case: Case) -> None:
    theirs, ours = observe(ASGIHandler, case), observe(Handler, case)
    if theirs != ours:
        raise Different(f"{case}\nDjango: {theirs}\n  ours: {ours}")


class DifferentialTests(SimpleTestCase):
    maxDiff = None

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(_cases())
    @example(RARE)
    def test_stacks(self, case: Case) -> None:
        self.assertEqual(observe(ASGIHandler, case), observe(Handler, case))

    def test_no_thread_is_kept(self) -> None:
        for number in range(5):
            observe(Handler, Case(stack=(Middleware(),) * number))
        self.assertEqual(threads.idle, threads.count)

    def test_a_step_is_seen_in_the_loop_and_in_a_thread(self) -> None:
        """The comparison is not one of empty lists."""
        case = Case(stack=(Middleware(), Middleware(kind="async-class")))
        places = {step[1] for step in observe(Handler, case).steps}
        self.assertEqual(places, {"loop", "thread 0", ""})


# -- Mutants ---------------------------------------------------------------------------


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    return mock.patch.object(owner, name, make(getattr(owner, name)))


def _early_answers_skip_their_own_way_out(leave: Any) -> Any:
    def mutant(
        self: Any, request: Any, response: Any, error: Any, passed: int, work: Any
    ) -> Any:
        early = passed < len(self.middleware) and error is None
        return leave(self, request, response, error, passed - early, work)

    return mutant


def _errors_pass_all(leave_with: Any) -> Any:
    def mutant(self: Any, request: Any, error: Any, passed: int, work: Any) -> Any:
        return leave_with(self, request, error, len(self.middleware), work)

    return mutant


def _never_stops(step: Any) -> Any:
    return lambda self, interruptible=True: None


def _stops_everywhere(step: Any) -> Any:
    return lambda self, interruptible=True: step(self)


def _keeps_context(restore: Any) -> Any:
    return lambda context: None


def _always_unseen(closes_unseen: Any) -> Any:
    return lambda self, response: True


def _never_closes(finish: Any) -> Any:
    return lambda self, work: None


def _closes_twice(finish: Any) -> Any:
    def mutant(self: Any, work: Any) -> None:
        finish(self, work)
        self._closed = False
        finish(self, work)

    return mutant


def _other_closing_context(flag: bool) -> bool:
    return not flag


def _takes_everything_apart(why_apart: Any) -> Any:
    def mutant(handler: Any, middleware: Any) -> str:
        reason: str = why_apart(handler, middleware)
        return "" if reason.startswith("it has __acall__") else reason

    return mutant


def _another_thread(run: Any) -> Any:
    """Each hop in whatever thread there is."""

    async def mutant(worker: Any, function: Any) -> Any:
        worker = await threads.lease(None)
        try:
            return await run(worker, function)
        finally:
            threads.give_back(worker)

    return mutant


def _excuses_nothing(excuse: Any) -> Any:
    def mutant(self: Any, request: Any, error: Exception, work: Any) -> Any:
        raise error

    return mutant


def _forgets_hooks(render: Any) -> Any:
    def mutant(self: Any, *arguments: Any) -> Any:
        with mock.patch.object(self, "process_template_response", ()):
            return render(self, *arguments)

    return mutant


def _views_forget_hooks(begin: Any) -> Any:
    def mutant(self: Any, *arguments: Any) -> Any:
        with mock.patch.object(self, "process_view", self.process_view[::-1]):
            return begin(self, *arguments)

    return mutant


def _silent(log_response: Any) -> Any:
    return lambda *args, **kwargs: None


def _deaf(listen: Any) -> Any:
    async def mutant(self: Any) -> None:
        return

    return mutant


def _left_alone(fetch: Any) -> Any:
    return lambda result, work: result


MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "an early answer skips its own process_response": (
        segments.Segment, "_leave", _early_answers_skip_their_own_way_out,
    ),
    "an error passes every process_response": (
        segments.Segment, "_leave_with", _errors_pass_all,
    ),
    "a disconnect stops nothing": (hop.Work, "step", _never_stops),
    "a disconnect stops what Django does not": (hop.Work, "step", _stops_everywhere),
    "what the thread sets in its context is lost": (
        hop, "_carry_over", _keeps_context,
    ),
    "closed before it is sent": (exchange.Exchange, "_closes_unseen", _always_unseen),
    "never closed": (exchange.Exchange, "_finish", _never_closes),
    "closed twice": (exchange.Exchange, "_finish", _closes_twice),
    "closed in the context of the other Django": (
        exchange, "ANSWERS_IN_A_CHILD_TASK", _other_closing_context,
    ),
    "a middleware's own __acall__ is not called": (
        segments, "why_apart", _takes_everything_apart,
    ),
    "the thread is given back in the middle": (exchange, "run_in", _another_thread),
    "process_exception is not called": (view.View, "_excuse", _excuses_nothing),
    "process_template_response is not called": (view.View, "_render", _forgets_hooks),
    "process_view in the wrong order": (view.View, "_begin", _views_forget_hooks),
    "errors of the client are not logged": (exchange, "log_response", _silent),
    "nobody hears the client go": (exchange.Exchange, "_listen", _deaf),
    "nobody goes on for a client that has gone": (
        inside, "fetch_from_thread", _left_alone,
    ),
}  # fmt: skip


@contextlib.contextmanager
def _mutated(name: str) -> Iterator[None]:
    owner, attribute, make = MUTANTS[name]
    with _replace(owner, attribute, make):
        yield


class MutantTests(SimpleTestCase):
    """The comparison above notices every fault that is put into the handler."""


def _add_mutant(name: str) -> None:
    @seed(1)
    @settings(
        max_examples=PATIENCE,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(_cases())
    @example(RARE)
    def look(case: Case) -> None:
        _compare(case)

    def test(self: unittest.TestCase) -> None:
        with _mutated(name), self.assertRaises(BaseException) as caught:
            look()
        errors = getattr(caught.exception, "exceptions", (caught.exception,))
        self.assertTrue(all(isinstance(error, Different) for error in errors), errors)

    test.__doc__ = name
    slug = "".join(c if c.isalnum() else "_" for c in name)
    setattr(MutantTests, f"test_{slug}", test)


for _name in MUTANTS:
    _add_mutant(_name)
