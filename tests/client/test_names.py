"""Topic names, message ids, service URLs and what the package exports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import magnetar
from magnetar.errors import InvalidArgument, InvalidTopicName
from magnetar.message_id import MessageId
from magnetar.service_url import ServiceUrl
from magnetar.topic import TopicName


@pytest.mark.parametrize("text, full", [
    ("t", "persistent://public/default/t"),
    ("a/b/t", "persistent://a/b/t"),
    ("persistent://a/b/t", "persistent://a/b/t"),
    ("non-persistent://a/b/t", "non-persistent://a/b/t"),
    ("größe", "persistent://public/default/größe"),
])
def test_topic_names(text: str, full: str) -> None:
    assert TopicName.parse(text).full == full
    assert TopicName.parse(full) == TopicName.parse(text)


@pytest.mark.parametrize("text", [
    "", "a/b", "a/b/c/d", "kafka://a/b/t", "persistent://t", "persistent://a//t", "a/b/", "..",
    "a b", "t\n", "x" * 256, "a!/b/t", "../b/t", "persistent://", "\ud800",
])
def test_what_is_no_topic_name(text: str) -> None:
    with pytest.raises(InvalidTopicName):
        TopicName.parse(text)


def test_partitions() -> None:
    topic = TopicName.parse("a/b/t")
    partition = topic.with_partition(3)

    assert partition.full == "persistent://a/b/t-partition-3"
    assert (partition.partition, partition.base, topic.partition) == (3, topic, -1)
    assert topic.base == topic
    with pytest.raises(InvalidTopicName):
        partition.with_partition(1)


def test_message_ids() -> None:
    first, second = MessageId(0, 1, 2, 3), MessageId(0, 1, 3, 0)

    assert MessageId.earliest < first < second < MessageId.latest
    assert MessageId.deserialize(first.serialize()) == first
    assert first.serialize().hex() == "010000000000000000000000010000000000000002" + "00000003"
    assert str(first) == "1:2:0:3"
    for data in (b"", first.serialize()[:-1], b"\x02" + first.serialize()[1:]):
        with pytest.raises(InvalidArgument):
            MessageId.deserialize(data)


def test_service_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceUrl.parse("magnetar://a:1,b,[::1]:3") == ServiceUrl(
        ("a:1", "b:6650", "[::1]:3"), False)
    assert ServiceUrl.parse("magnetar+tls://a:1").tls
    monkeypatch.setenv("MAGNETAR_SERVICE_URL", "magnetar://x:5")
    assert ServiceUrl.default().addresses == ("x:5",)
    monkeypatch.delenv("MAGNETAR_SERVICE_URL")
    assert ServiceUrl.default().addresses == ("127.0.0.1:6650",)
    for text in ("", "http://a:1", "a:1", "magnetar://", "magnetar://a:b", "magnetar://a:1,,"):
        with pytest.raises(InvalidArgument):
            ServiceUrl.parse(text)


def test_the_package_exports_the_sdk() -> None:
    for name in magnetar.__all__:
        assert getattr(magnetar, name) is not None
    with pytest.raises(AttributeError):
        magnetar.nothing  # noqa: B018
    assert (Path(magnetar.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("module, absent", [
    ("magnetar", "grpc crc32c google typer"),
    ("magnetar.producer_core", "grpc google uvloop typer"),
    ("magnetar.entry", "grpc google lz4 zstandard"),
    ("magnetar.cli.app", "grpc google rich.table crc32c"),
])
def test_imports_stay_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; print([m for m in {absent.split()} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(magnetar.__file__).parent.parent)},
    )

    assert found.stdout.strip() == "[]"
