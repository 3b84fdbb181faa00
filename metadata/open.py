"""Opening a metadata store by its URL."""

from __future__ import annotations

from typing import Final

from magnetar.errors import InvalidArgument
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, Network
from metadata.embedded import DEFAULT_SESSION_TIMEOUT_S
from metadata.store import MetadataStore

ZOOKEEPER_PREFIX: Final = "zk://"
SERVED_PREFIX: Final = "served://"


async def open_store(
    url: str,
    *,
    network: Network,
    clock: Clock,
    session_timeout_s: float = DEFAULT_SESSION_TIMEOUT_S,
) -> MetadataStore:
    """A session with `zk://host:port[,host:port][/chroot]` or `served://host:port`.

    Raises InvalidArgument for any other URL, ConnectionFailed when nobody answers."""
    if url.startswith(ZOOKEEPER_PREFIX):
        hosts, separator, chroot = url.removeprefix(ZOOKEEPER_PREFIX).partition("/")
        for host in hosts.split(","):
            _address(url, host)
        from metadata.zookeeper import ZooKeeperStore

        chroot = (separator + chroot).rstrip("/")
        return await ZooKeeperStore.connect(hosts, chroot, session_timeout_s, clock=clock)
    if url.startswith(SERVED_PREFIX):
        from metadata.served import ServedStore

        address = _address(url, url.removeprefix(SERVED_PREFIX).rstrip("/"))
        return await ServedStore.connect(network, address, clock, session_timeout_s)
    raise InvalidArgument(
        f"not a metadata URL: {url!r}; use zk://host:port[,host:port][/chroot] or "
        "served://host:port"
    )


def _address(url: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise InvalidArgument(f"in the metadata URL {url!r}: {error}") from None
