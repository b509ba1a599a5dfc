"""The ASGI side of a request: scopes, streams and their tasks; no sockets, no Django."""
