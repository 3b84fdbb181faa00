"""A message of nothing but what a test gives it."""

from __future__ import annotations

from collections.abc import Mapping

from broker.selector.expression import FieldName


class GivenFields:
    """Properties, and fields by their names."""

    def __init__(self, properties: Mapping[str, str | None], **fields: str | int) -> None:
        self._properties = properties
        self._fields = fields

    def property(self, name: str) -> str | None:
        return self._properties.get(name)

    def field(self, name: FieldName) -> str | int | None:
        return self._fields.get(name.value)
