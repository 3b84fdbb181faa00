"""`magnetar consume`, `read`, `pull` and `request`, against a broker in the SDK's own loop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from magnetar.admin.sync import Messages
from magnetar.cli.app import app
from magnetar.cli.read import up_to
from magnetar.enums import InitialPosition
from magnetar.errors import (
    InvalidArgument,
    MagnetarError,
    OperationTimeout,
    RequestFailed,
    TopicNotFound,
)
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.sync import Client

PATIENCE_MS = 5_000


class Shell:
    """Runs commands."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--url", self._url])

    def lines(self, *arguments: str) -> list[str]:
        done = self.run(*arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout.splitlines()

    def json(self, *arguments: str) -> list[Any]:
        return [json.loads(line) for line in self.lines(*arguments, "--json")]

    def error(self, *arguments: str) -> MagnetarError:
        done = self.run(*arguments)
        assert isinstance(done.exception, MagnetarError), done.output
        return done.exception


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


def publish(url: str, topic: str, *contents: bytes, **options: Any) -> list[MessageId]:
    with Client(url) as client, client.create_producer(topic, producer_name="p") as producer:
        found = [producer.send(content, **options) for content in contents]
    return [one for one in found if isinstance(one, MessageId)]


# JSON, which all share.


def test_json_has_all_that_a_message_carries(shell: Shell, url: str) -> None:
    text, binary = publish(
        url, "orders", "größe".encode(), b"\xff\x00", properties={"a": "1"}, partition_key="pk",
        ordering_key="ok", event_timestamp=99, tag="t")

    first, second = shell.json("consume", "orders", "-s", "s", "-n", "2")

    assert first.pop("publish_timestamp") > 0
    assert first == {
        "message_id": str(text), "data": "größe",
        "topic_name": "persistent://public/default/orders", "properties": {"a": "1"},
        "partition_key": "pk", "ordering_key": "ok", "tag": "t", "producer_name": "p",
        "sequence_id": 0, "event_timestamp": 99, "redelivery_count": 0, "scheduled_id": None,
    }
    assert (second["message_id"], second["data_base64"]) == (str(binary), "/wA=")
    assert "data" not in second


def test_json_is_the_same_of_a_message_that_is_read_and_pulled(shell: Shell, url: str) -> None:
    publish(url, "orders", b"one", b"two")

    read = shell.json("read", "orders")

    assert read == shell.json("pull", "orders", "-s", "s")
    assert [one["data"] for one in read] == ["one", "two"]


# Consuming.


@pytest.mark.parametrize("command", [("pull",), ("consume", "--shared")])
@pytest.mark.parametrize(("option", "first"), [
    ("--hold-failed-keys", "other"), ("--no-hold-failed-keys", "later")])
def test_a_failed_key_is_held_if_wanted(
    shell: Shell, url: str, command: tuple[str, ...], option: str, first: str
) -> None:
    publish(url, "orders", b"failed", b"later", partition_key="k")
    publish(url, "orders", b"other", partition_key="j")
    with Client(url) as client, client.create_puller(
        "orders", "s", initial_position=InitialPosition.Earliest, hold_failed_keys=True
    ) as puller:
        puller.negative_acknowledge(puller.pull(1, PATIENCE_MS), delay=3_600)

    assert shell.lines(*command, "orders", "-s", "s", "-n", "1", option) == [first]


# Reading.


def test_a_topic_is_read_to_its_end_and_nothing_is_consumed(shell: Shell, url: str) -> None:
    publish(url, "orders", b"1", b"2", b"3")

    assert shell.lines("read", "orders") == shell.lines("read", "orders") == ["1", "2", "3"]
    assert shell.lines("read", "orders", "-n", "2") == ["1", "2"]
    assert shell.lines("admin", "subscriptions", "list", "orders") == []


def test_reading_begins_anywhere(shell: Shell, url: str) -> None:
    ids = publish(url, "orders", b"1", b"2", b"3")
    with Client(url) as client:
        stored_ms = [client.admin.messages.get("orders", one).append_timestamp for one in ids]

    from_second = [
        text for text, time_ms in zip("123", stored_ms, strict=True) if time_ms >= stored_ms[1]]
    assert shell.lines("read", "orders", "--at", str(ids[1])) == ["2", "3"]
    assert shell.lines("read", "orders", "--at", str(stored_ms[1])) == from_second
    assert shell.lines("read", "orders", "--at", "1h") == ["1", "2", "3"]
    assert shell.lines("read", "orders", "--at", "2100-01-31T09:30") == []
    assert shell.lines("read", "orders", "--at", "latest") == []


def test_all_partitions_are_read_or_one(shell: Shell, url: str) -> None:
    shell.lines("admin", "topics", "create", "shop", "--partitions", "3")
    texts = [str(number).encode() for number in range(9)]
    ids = [publish(url, "shop", text, partition_key=f"k{text!r}")[0] for text in texts]
    chosen = ids[4].partition
    after = [
        text.decode() for text, one in zip(texts, ids, strict=True)
        if one.partition == chosen and one >= ids[4]]

    assert sorted(shell.lines("read", "shop")) == [text.decode() for text in texts]
    assert shell.lines("read", f"shop-partition-{chosen}", "--at", str(ids[4])) == after
    assert "name it as the topic" in str(shell.error("read", "shop", "--at", str(ids[4])))


def test_an_empty_topic_is_read_at_once(shell: Shell) -> None:
    shell.lines("admin", "topics", "create", "empty")

    assert shell.lines("read", "empty") == []


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_a_topic_that_is_not_there_is_not_made_by_reading(
    shell: Shell, more: tuple[str, ...]
) -> None:
    assert isinstance(shell.error("read", "oders", *more), TopicNotFound)
    assert shell.lines("admin", "topics", "list") == []


def test_what_comes_is_followed(shell: Shell, url: str) -> None:
    publish(url, "orders", b"there")
    with subprocess.Popen(
        [sys.executable, "-m", "magnetar", "read", "orders", "--follow", "-n", "2", "--url", url],
        stdout=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        publish(url, "orders", b"came")

        assert process.stdout.readline() == "came\n"
        assert process.wait(PATIENCE_MS / 1000) == 0


def test_reading_ends_at_what_was_the_last_message(url: str) -> None:
    ids = publish(url, "orders", b"1", b"2", b"3")
    with Client(url) as client, client.create_reader("orders") as reader:
        messages = [reader.read_next(PATIENCE_MS) for _ in ids]
    ends = {-1: ids[1]}

    kept = up_to(ends, messages)

    assert [message.data for message in kept] == [b"1", b"2"]
    assert ends == {}


def test_a_filter_needs_to_know_how_long_to_wait(shell: Shell, url: str) -> None:
    publish(url, "orders", b"eu", properties={"region": "eu"}, tag="a")
    publish(url, "orders", b"us", properties={"region": "us"}, tag="b")

    assert shell.lines("read", "orders", "--filter", "region = 'us'", "--wait-ms", "5000") == ["us"]
    assert shell.lines("read", "orders", "--tags", "a", "--follow", "-n", "1") == ["eu"]
    for option in (("--filter", "region = 'us'"), ("--tags", "a")):
        error = shell.error("read", "orders", *option)
        assert isinstance(error, InvalidArgument) and "--wait-ms" in str(error)


def test_messages_that_should_be_there_and_do_not_come_are_an_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.lines("admin", "topics", "create", "truncated")
    last = MessageId(-1, 7, 0, 0)
    monkeypatch.setattr(Messages, "last_ids", lambda _messages, _topic: (last,))
    monkeypatch.setattr("magnetar.cli.read.PATIENCE_MS", 1)

    error = shell.error("read", "truncated")

    assert isinstance(error, OperationTimeout) and str(last) in str(error)
    assert shell.lines("read", "truncated", "--wait-ms", "1") == []


def test_a_place_that_cannot_be_read_is_refused_in_words(shell: Shell) -> None:
    error = shell.error("read", "orders", "--at", "yesterday")

    assert "write earliest, latest, a message id" in str(error)


# Pulling.


def test_pulling_takes_no_more_than_wanted_and_acknowledges_it(shell: Shell, url: str) -> None:
    publish(url, "jobs", b"1", b"2", b"3")

    assert shell.lines("pull", "jobs", "-s", "workers", "-n", "2") == ["1", "2"]
    assert shell.lines("pull", "jobs", "-s", "workers", "-n", "2") == ["3"]
    nothing = shell.run("pull", "jobs", "-s", "workers", "--wait-ms", "1")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no messages\n")


def test_pulling_takes_of_all_partitions(shell: Shell, url: str) -> None:
    shell.lines("admin", "topics", "create", "jobs", "--partitions", "3")
    for number in range(9):
        publish(url, "jobs", b"%d" % number, partition_key=f"k{number}")

    assert sorted(shell.lines("pull", "jobs", "-s", "s", "-n", "9")) == [*"012345678"]


def test_pulling_ends_with_the_topic(shell: Shell, url: str) -> None:
    publish(url, "jobs", b"last")
    shell.lines("admin", "topics", "terminate", "jobs", "--yes")

    assert shell.lines("pull", "jobs", "-s", "s", "--wait-ms", "5000") == ["last"]
    assert shell.run("pull", "jobs", "-s", "s").stderr == "no messages\n"


# Requests.


def test_a_request_prints_its_reply(shell: Shell, url: str) -> None:
    with Client(url) as server:

        @server.reply("prices")
        def price(request: Message) -> bytes:
            if request.data != b"apples":
                raise KeyError(request.data.decode())
            return f"2.49 {request.properties['currency']}".encode()

        server.start_listeners()

        assert shell.lines("request", "prices", "apples", "-p", "currency=EUR") == ["2.49 EUR"]
        error = shell.error("request", "prices", "kiwis")

    assert isinstance(error, RequestFailed) and str(error) == "KeyError: 'kiwis'"


def test_a_request_that_nobody_answers_in_time_is_an_error(shell: Shell) -> None:
    assert isinstance(
        shell.error("request", "prices", "apples", "--timeout-ms", "1"), OperationTimeout)
