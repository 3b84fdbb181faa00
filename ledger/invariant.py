"""Rules of the protocol as assertions that stay on in production."""

from __future__ import annotations


class ProtocolViolation(AssertionError):
    """The code is wrong: a rule of the protocol does not hold. Never caught to go on."""


def invariant(holds: bool, rule: str, text: str) -> None:
    """Raise ProtocolViolation unless `holds`; survives `python -O`."""
    if not holds:
        raise ProtocolViolation(f"{rule}: {text}")
