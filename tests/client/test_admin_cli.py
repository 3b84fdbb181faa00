"""`magnetar admin` and the blocking `client.admin`, against a broker in the SDK's own loop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.administration import stored_messages
from magnetar.cli import places
from magnetar.cli.admin import arguments
from magnetar.cli.app import app
from magnetar.cli.printing import size, when
from magnetar.cli.times import milliseconds
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument, MagnetarError, ResourceInUse, TopicNotFound
from magnetar.message_id import MessageId
from magnetar.sync import Client


class Shell:
    """Runs commands under `magnetar admin`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, line: str, *more: str) -> Result:
        command, verb, *rest = line.split()
        return CliRunner().invoke(
            app, ["admin", command, verb, *rest, *more, "--url", self._url]
        )

    def text(self, line: str, *more: str) -> str:
        done = self.run(line, *more)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    def json(self, line: str, *more: str) -> Any:
        return json.loads(self.text(f"{line} --json", *more))

    def error(self, line: str, *more: str) -> MagnetarError:
        done = self.run(line, *more)
        assert isinstance(done.exception, MagnetarError), done.output
        return done.exception


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


def publish(url: str, topic: str, *contents: bytes, **options: Any) -> list[MessageId]:
    with Client(url) as client, client.create_producer(topic, producer_name="p") as producer:
        return [producer.send(content, **options) for content in contents]


def test_tenants_namespaces_and_policies(shell: Shell) -> None:
    made = shell.json("tenants create shop --admin-role ops -p team=a")
    shell.text("namespaces create shop/orders --policy retention_minutes=60")

    assert (made["name"], made["admin_roles"], made["properties"]) == (
        "shop", ["ops"], {"team": "a"})
    assert shell.text("tenants list").split() == ["public", "shop"]
    assert shell.text("namespaces list shop") == "shop/orders\n"
    assert shell.json("namespaces get shop/orders")["policies"] == {"retention_minutes": 60}
    assert shell.json("policies set ack_quorum=1 deduplication=false --topic shop/orders/x") == {
        "ack_quorum": 1, "deduplication": False}
    assert shell.json("policies set ack_quorum= --topic shop/orders/x") == {
        "deduplication": False}
    assert shell.json("policies get --namespace shop/orders") == {"retention_minutes": 60}
    assert shell.text("policies get --namespace shop/orders").split() == [
        "POLICY", "VALUE", "retention_minutes", "60"]
    shown = shell.text("policies effective --topic shop/orders/x")
    assert "deduplication" in shown and "topic" in shown
    assert isinstance(shell.error("tenants delete shop --yes"), ResourceInUse)
    assert "retention" in str(shell.error("policies set retention=1"))
    shell.text("namespaces delete shop/orders --yes")
    shell.text("tenants delete shop --yes")
    assert shell.text("tenants list") == "public\n"


def test_topics_from_the_first_to_the_last_day(shell: Shell, url: str) -> None:
    shell.text("topics create orders -p team=shop")
    shell.text("topics create parts --partitions 2")
    publish(url, "orders", b"1", b"2")

    assert shell.json("topics list --pattern par*") == [
        {"topic": "persistent://public/default/parts", "partitions": 2}]
    assert len(shell.json("topics list --limit 1")) == 1
    assert shell.json("topics grow parts 3")["partitions"] == 3
    assert shell.json("topics get orders")["properties"] == {"team": "shop"}
    stats = shell.json("topics stats orders")
    assert (stats["messages"], stats["incoming"]["messages"]) == (2, 2)
    assert "kept messages" in shell.text("topics stats orders")
    assert "partitions" in shell.text("topics stats parts")
    last = shell.text("topics terminate orders --yes").strip()
    assert last == shell.text("messages last-id orders").strip()
    assert shell.text("topics truncate orders --yes") == "2 messages deleted\n"
    shell.text("topics delete orders --yes")
    assert isinstance(shell.error("topics get orders"), TopicNotFound)


def test_a_peek_tells_where_it_stopped_looking(
    shell: Shell, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_messages, "PEEK_ENTRIES", 1)
    shell.text("topics create orders")
    shell.text("subscriptions create orders s --at earliest")
    with Client(url) as client:
        client.subscribe("orders", "red", tags="red").close()
    ids = publish(url, "orders", b"one", b"two", tag="blue")
    told = f"looked no further than {ids[0]}: there may be more after it\n"

    some = shell.run("subscriptions peek orders s -n 2")
    as_json = shell.run("subscriptions peek orders s -n 2 --json")
    none = shell.run("subscriptions peek orders red -n 2")

    assert "    one" in some.stdout and some.stderr == told
    assert len(json.loads(as_json.stdout)) == 1 and as_json.stderr == told
    assert (none.stdout, none.stderr) == ("", told)


def test_subscriptions_and_messages(shell: Shell, url: str) -> None:
    shell.text("topics create orders")
    shell.text("subscriptions create orders s --at earliest")
    ids = publish(url, "orders", b"one", b"\xff\x00", properties={"k": "v"}, tag="t")

    assert shell.text("subscriptions list orders") == "s\n"
    assert "backlog" in shell.text("subscriptions stats orders s")
    shown = shell.text("subscriptions peek orders s -n 5")
    assert f"id                {ids[0]}" in shown and "    one" in shown and "k=v" in shown
    peeked = shell.json("subscriptions peek orders s -n 5")
    assert [one.get("data", one.get("data_base64")) for one in peeked] == ["one", "/wA="]
    assert peeked[0]["message_id"] == str(ids[0])
    assert shell.json("subscriptions skip orders s 1 --yes") == {"messages": 1}
    shell.text(f"subscriptions seek orders s {ids[0]} --yes")
    assert shell.json("subscriptions stats orders s")["backlog_messages"] == 2
    assert shell.json("subscriptions expire orders s 1h --yes") == {"messages": 0}
    assert shell.json("subscriptions clear-backlog orders s --yes") == {"messages": 2}
    assert shell.run("subscriptions peek orders s").stderr == "no messages\n"
    assert shell.text(f"messages get orders {ids[0]} --raw") == "one"
    assert shell.json(f"messages get orders {ids[0]}")["tag"] == "t"
    shell.text("subscriptions delete orders s --yes")
    assert shell.json("subscriptions list orders") == []


def test_a_long_message_is_shown_cut_and_printed_whole(shell: Shell, url: str) -> None:
    content = b"0123456789abcdef" * (3 << 16)
    (id,) = publish(url, "orders", content)

    assert shell.text(f"messages get orders {id}").endswith("...\n")
    assert shell.text(f"messages get orders {id} --raw") == content.decode()
    assert shell.json(f"messages get orders {id}")["data"] == content.decode()


def test_what_is_scheduled_is_listed_cancelled_and_moved(shell: Shell, url: str) -> None:
    with Client(url) as client, client.create_producer("orders") as producer:
        kept, moved = (producer.send(b"x", deliver_after=hours * 3600) for hours in (1, 2))

    assert shell.text("schedule count orders") == "2\n"
    assert str(kept) in shell.text("schedule list orders --before 90m")
    listed = shell.json("schedule list orders")
    assert [one["scheduled_id"] for one in listed] == [str(kept), str(moved)]
    assert shell.text(f"schedule move orders {moved} 30m") == "moved\n"
    assert [one["scheduled_id"] for one in shell.json("schedule list orders")] == [
        str(moved), str(kept)]
    assert shell.json("topics stats orders")["scheduled_messages"] == 2
    assert "2 messages, the next at" in shell.text("topics stats orders")
    assert shell.text(f"schedule cancel orders {kept} --yes") == "cancelled\n"
    assert shell.json("schedule list orders --limit 1")[0]["scheduled_id"] == str(moved)
    unknown = shell.run(f"schedule cancel orders {kept}9 --yes")
    assert (unknown.exit_code, unknown.stdout) == (1, "unknown\n")


def test_space_is_explained(shell: Shell, url: str) -> None:
    publish(url, "orders", b"x")
    shell.text("subscriptions create orders s --at earliest")

    assert "subscription 's' has consumed all before message 0" in shell.text(
        "topics why-space orders")
    assert shell.json("topics why-space orders")["ledgers"][0]["held_by"]


def test_processes_are_listed(shell: Shell) -> None:
    assert "BROKER ID" in shell.text("brokers list")
    assert shell.json("brokers list")[0]["broker_id"] == "b1"
    assert shell.run("bookies list").exit_code == 0


@pytest.mark.parametrize("line", [
    "tenants delete t", "namespaces delete t/n", "topics delete x", "topics terminate x",
    "topics truncate x", "subscriptions delete x s", "subscriptions skip x s 1",
    "subscriptions clear-backlog x s", "subscriptions expire x s 1h",
    "subscriptions seek x s earliest", "schedule cancel x scheduled:1:2:-1:0",
])
def test_what_destroys_asks_for_yes(line: str) -> None:
    error = Shell("magnetar://127.0.0.1:1").error(line)

    assert isinstance(error, InvalidArgument) and "--yes" in str(error)


@pytest.mark.parametrize(("typed", "goes_on"), [("orders\n", True), ("order\n", False)])
def test_a_person_confirms_by_the_name(
    typed: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confirmed() -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        arguments.confirm(False, "deletes the topic orders", "orders")

    import typer

    asked = typer.Typer()
    asked.command()(confirmed)

    done = CliRunner().invoke(asked, input=typed)

    assert "deletes the topic orders" in done.stderr
    assert (done.exception is None) is goes_on, done.exception


def test_an_error_is_one_line_and_exit_status_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "magnetar", "admin", "topics", "get", "a b", "--url",
         "magnetar://127.0.0.1:1"],
        capture_output=True, text=True, timeout=60,
        env={"MAGNETAR_ADMIN_TOPICS_GET_JSON": "1"},
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "'a b'" in done.stderr


def test_other_commands_do_not_load_these() -> None:
    code = (
        "import sys; from magnetar.cli.app import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, ['--help']); CliRunner().invoke(app, ['produce', '--help']);"
        "print('magnetar.cli.admin.commands' in sys.modules, 'grpc' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout == "False False\n", done.stderr


def test_every_command_has_help() -> None:
    runner = CliRunner()
    for noun in ("tenants", "namespaces", "policies", "topics", "subscriptions", "messages",
                 "schedule", "brokers", "bookies"):
        done = runner.invoke(app, ["admin", noun, "--help"])
        assert done.exit_code == 0 and "Commands:" in done.stdout, noun


@pytest.mark.parametrize(("text", "meant"), [
    ("earliest", InitialPosition.Earliest), ("latest", InitialPosition.Latest),
    ("1:2:-1:3", MessageId(-1, 1, 2, 3)), ("1:2", MessageId(-1, 1, 2, -1)),
    ("1700000000000", 1_700_000_000_000), ("2026-01-31T09:30+00:00", 1_769_851_800_000),
])
def test_places_are_read(text: str, meant: Any) -> None:
    assert places.where(text) == meant


def test_places_may_be_so_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 10_000_000 * 1_000_000)

    assert places.where("30m") == 10_000_000 - 30 * 60_000
    assert milliseconds("500ms") == milliseconds("500") == 500


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "a:b", "31.1.2026", "10x"])
def test_what_is_no_place_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write"):
        places.where(text)


@pytest.mark.parametrize("text", ["1x", "h", "-1s", "1.5h", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="duration"):
        milliseconds(text)


def test_numbers_are_shown_as_people_read_them() -> None:
    assert [size(number) for number in (-1, 0, 1023, 1536, 5 << 40)] == [
        "", "0 B", "1023 B", "1.5 KiB", "5.0 TiB"]
    assert (when(0), when(1_769_851_800_000)) == ("", "2026-01-31 09:30:00.000 UTC")
    assert when(1 << 62) == f"{1 << 62} ms"


def test_the_blocking_client_has_the_same_calls(url: str) -> None:
    with Client(url) as client:
        client.admin.topics.create("orders")
        client.admin.subscriptions.create("orders", "s", InitialPosition.Earliest)
        publish(url, "orders", b"x")

        assert client.admin.topics.stats("orders").messages == 1
        assert client.admin.subscriptions.peek("orders", "s")[0].data == b"x"
        with pytest.raises(TopicNotFound):
            client.admin.topics.get("nothing")


def test_no_call_is_left_out_of_the_blocking_client() -> None:
    from magnetar.admin import admin as asynchronous
    from magnetar.admin import sync

    class NoTransport:
        async def call(self, method: str, request: Any) -> bytes:
            raise AssertionError

    calls = asynchronous.Admin(NoTransport())
    blocking = sync.Admin(calls, lambda _work: None)

    def shown(admin: Any) -> dict[str, set[str]]:
        return {
            noun: {name for name in dir(group) if not name.startswith("_")}
            for noun, group in vars(admin).items()
        }

    assert shown(blocking) == shown(calls)
