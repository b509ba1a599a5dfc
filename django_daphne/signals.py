"""Signals of the serving process.

Both are sent once in each serving process, with
:class:`~django_daphne.config.Config` as the sender. Asynchronous receivers run on the
server's event loop, synchronous ones in a thread. One that raises is logged by
``django.dispatch`` and hinders neither the others nor the server.
"""

from __future__ import annotations

from django.dispatch import Signal

#: The application has started and connections are accepted.
server_started = Signal()

#: The server was asked to stop; requests under way are still being answered.
server_stopping = Signal()
