"""Stored records: compact JSON with a format version `v`, read strictly.

A record written by a newer format is refused, never guessed at. Fields of the same version that
this release does not know are kept and written back, so that an older process does not strip
what a newer one added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from magnetar.errors import InvalidFrame, NotSupported

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

FORMAT_VERSION: Final = 1


def encode_record(fields: Mapping[str, Json], unknown: Mapping[str, Json] | None = None) -> bytes:
    """The bytes of a record: always the same for the same fields."""
    whole = {**(unknown or {}), **fields, "v": FORMAT_VERSION}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class RecordReader:
    """Takes typed fields out of a record; what is not taken is `rest()`.

    Raises InvalidFrame for what is malformed, NotSupported for a newer format."""

    def __init__(self, kind: str, value: bytes) -> None:
        self._kind = kind
        try:
            parsed: Any = json.loads(value)
        except ValueError as error:
            raise InvalidFrame(f"the stored {kind} record is not JSON: {error}") from error
        version = parsed.get("v") if isinstance(parsed, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InvalidFrame(f"the stored {kind} record has no format version")
        if version > FORMAT_VERSION:
            raise NotSupported(
                f"the stored {kind} record has format {version}, this release reads up to "
                f"{FORMAT_VERSION}: upgrade this process"
            )
        self._fields: dict[str, Any] = {k: v for k, v in parsed.items() if k != "v"}

    @classmethod
    def nested(cls, kind: str, fields: Any) -> RecordReader:
        """A reader of an object inside a record, which carries no version of its own."""
        reader = cls.__new__(cls)
        reader._kind = kind
        if not isinstance(fields, dict):
            raise InvalidFrame(f"the stored {kind} is not an object")
        reader._fields = dict(fields)
        return reader

    def take(self, name: str) -> Any:
        """Any value, or None when absent."""
        return self._fields.pop(name, None)

    def text(self, name: str, default: str | None = None) -> str:
        value = self._fields.pop(name, default)
        if not isinstance(value, str):
            raise self.malformed(name)
        return value

    def number(self, name: str, default: int | None = None) -> int:
        value = self._fields.pop(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.malformed(name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._fields.pop(name, default)
        if not isinstance(value, bool):
            raise self.malformed(name)
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty when absent."""
        value = self._fields.pop(name, [])
        if not isinstance(value, list):
            raise self.malformed(name)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.items(name)
        if not all(isinstance(value, str) for value in values):
            raise self.malformed(name)
        return tuple(values)

    def numbers(self, name: str) -> tuple[int, ...]:
        values = self.items(name)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise self.malformed(name)
        return tuple(values)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._fields.pop(name, {})
        if not isinstance(value, dict):
            raise self.malformed(name)
        return value

    def properties(self, name: str = "properties") -> tuple[tuple[str, str], ...]:
        """Text pairs, sorted by key."""
        value = self.mapping(name)
        if not all(isinstance(text, str) for text in value.values()):
            raise self.malformed(name)
        return tuple(sorted(value.items()))

    def rest(self) -> dict[str, Any]:
        """The fields nobody took: to be kept and written back."""
        return dict(self._fields)

    def malformed(self, name: str) -> InvalidFrame:
        return InvalidFrame(f"{name!r} of the stored {self._kind} is missing or malformed")
