"""The ASGI side of a request: scopes, streams, tasks; no sockets, no Django."""
