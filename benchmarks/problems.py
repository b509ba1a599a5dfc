"""What can go wrong.

BenchmarkError
├── CannotRun      the machine or the command line: nothing is measured
└── ServerFailed   one server in one case: its row says so, the others go on
    └── DidNotStart
"""


class BenchmarkError(Exception):
    """Its text is one message for the person at the terminal."""


class CannotRun(BenchmarkError):
    pass


class ServerFailed(BenchmarkError):
    pass


class DidNotStart(ServerFailed):
    pass
