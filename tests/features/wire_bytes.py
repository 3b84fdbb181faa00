"""What this process received from servers, as the kernel counted it on the sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection

BYTES_RECEIVED = struct.Struct("<Q")
BYTES_RECEIVED_AT = 128  # in struct tcp_info of linux/tcp.h
TCP_INFO_BYTES = 192


def received_bytes(ports: Collection[int]) -> int:
    """Sum over this process's connections to these ports."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue
        try:
            one = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue
        with one:
            try:
                if one.type == socket.SOCK_STREAM and one.getpeername()[1] in ports:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    total += BYTES_RECEIVED.unpack_from(info, BYTES_RECEIVED_AT)[0]
            except (OSError, IndexError):
                continue
    return total


def ports_of(service_url: str) -> set[int]:
    """Of all the brokers that a service URL names."""
    hosts = service_url.removeprefix("magnetar://").split(",")
    return {int(host.rpartition(":")[2]) for host in hosts}
