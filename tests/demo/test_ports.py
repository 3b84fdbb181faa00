"""Ports for clusters that are started side by side."""

from __future__ import annotations

import socket

from demo.ports import HIGHEST, LOOPBACK, LOWEST, free_port


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(200)]

    assert len(set(ports)) == len(ports)
    assert all(LOWEST <= port < HIGHEST for port in ports)


def test_a_port_given_can_be_listened_on() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        assert server.getsockname()[0] == LOOPBACK
