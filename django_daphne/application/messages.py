"""What is wrong with messages that are hardly messages at all.

Which messages are legal when is said by each kind of stream; here is what all of them
refuse, in sentences that name the culprit and not our own code.
"""

from __future__ import annotations

from typing import Any

from ..errors import IllegalMessage, shown


def no_type(message: object) -> IllegalMessage:
    """The refusal of something in which no type can be looked up."""
    return IllegalMessage(
        f"an ASGI message is a dict whose 'type' is a string, not {shown(message)}"
    )


def as_list(message: Any, key: str) -> list[Any]:
    """The list, which may be missing, in a message; any iterable will do.

    :raises IllegalMessage: for what is none.
    """
    value = message.get(key)
    if value is None:
        return []
    try:
        return list(value)
    except TypeError:
        raise IllegalMessage(
            f"{shown(message['type'])} has {key} of type {type(value).__name__}; "
            f"they must be a list"
        ) from None


def as_bytes(message: Any, key: str) -> bytes:
    """The byte string, which may be missing, in a message.

    :raises IllegalMessage: for anything else.
    """
    value = message.get(key, b"")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise IllegalMessage(
        f"{shown(message['type'])} has a {key} of type {type(value).__name__}; "
        f"it must be a byte string"
    )
