"""`magnetar://host:port[,host:port…]`, or `magnetar+tls://` for an encrypted link."""

from __future__ import annotations

import os
from dataclasses import dataclass

from magnetar.errors import InvalidArgument
from magnetar.runtime.network import Address

DEFAULT_PORT = 6650
DEFAULT_URL = "magnetar://127.0.0.1:6650"
ENVIRONMENT_VARIABLE = "MAGNETAR_SERVICE_URL"


@dataclass(frozen=True, slots=True)
class ServiceUrl:
    """Brokers to begin with; any of them can name a topic's owner."""

    addresses: tuple[str, ...]
    tls: bool

    @classmethod
    def parse(cls, text: str) -> ServiceUrl:
        """From the URL; raises InvalidArgument. The port may be left out."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("magnetar", "magnetar+tls"):
            raise InvalidArgument(f"{text!r} is no service URL; write magnetar://host:port")
        addresses = tuple(_address(part, text) for part in rest.rstrip("/").split(","))
        return cls(addresses, scheme == "magnetar+tls")

    @classmethod
    def default(cls) -> ServiceUrl:
        """From MAGNETAR_SERVICE_URL, else this machine."""
        return cls.parse(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_URL)


def _address(part: str, text: str) -> str:
    has_port = ":" in part.rpartition("]")[2]
    host_and_port = part if has_port else f"{part}:{DEFAULT_PORT}"
    try:
        return str(Address.parse(host_and_port))
    except ValueError as error:
        raise InvalidArgument(f"{text!r}: {part!r} is not host:port") from error
