"""What subscriptions are called, and the members of a broadcast group among them.

A member is a subscription of its own, named after its group and itself with a control character
between, which no client may use in a name.
"""

from __future__ import annotations

from magnetar.errors import InvalidArgument

MAX_NAME_BYTES = 1_024
SEPARATOR = "\x1f"


def check_name(what: str, name: str) -> str:
    """The name; raises InvalidArgument when it is too long or has control characters."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"{what} has at most {MAX_NAME_BYTES} bytes")
    if any(character < " " for character in name):
        raise InvalidArgument(f"{what} has no control characters: {name!r}")
    return name


def member_name(group: str, member: str) -> str:
    """The subscription of a group's member; raises InvalidArgument."""
    if not member:
        raise InvalidArgument(
            "a broadcast consumer needs a consumer name: its position is kept under it"
        )
    return check_name("a subscription name", group) + SEPARATOR + check_name(
        "a consumer name", member)


def group_of(name: str) -> str:
    """The name a client knows the subscription by: of a member, its group."""
    return name.partition(SEPARATOR)[0]


def member_of(name: str) -> str:
    """The member's own name; empty when it is none."""
    return name.partition(SEPARATOR)[2]
