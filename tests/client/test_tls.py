"""An encrypted link, and what happens when the server is not trusted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from magnetar.client import Client
from magnetar.errors import ConnectionFailed
from tests.client.memory_broker import MemoryBroker, MemoryCluster

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


async def test_publish_over_tls(certificate: Path) -> None:
    credentials = grpc.ssl_server_credentials([
        ((certificate.parent / "key.pem").read_bytes(), certificate.read_bytes())])
    cluster = MemoryCluster()
    broker = MemoryBroker(cluster)
    await broker.start(credentials)
    cluster.owner = broker.address
    try:
        async with Client(
            f"magnetar+tls://{broker.address}", tls_trust_certs_file_path=str(certificate)
        ) as client:
            producer = await client.create_producer("t")
            await producer.send(b"secret")
        async with Client(
            f"magnetar+tls://{broker.address}", operation_timeout_seconds=1.5
        ) as stranger:
            with pytest.raises(ConnectionFailed):
                await stranger.create_producer("t")
    finally:
        await broker.kill()

    assert cluster.topic("t").payloads() == [b"secret"]
