"""`magnetar dlq` against a cluster of one process."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.test_readme import run, url

MAGNETAR = (sys.executable, "-m", "magnetar")

__all__ = ["url"]


def dead(topic: str, url: str, *messages: str) -> None:
    """Put messages with the marks of dead letters there, and begin the redrive subscription."""
    run(*MAGNETAR, "produce", topic, "-f", "-", url=url, given="\n".join(messages) + "\n")


def marked(where: str, url: str, message: str, **marks: str) -> None:
    options = [
        part for name, value in marks.items() for part in ("-p", f"dead_letter.{name}={value}")
    ]
    run(*MAGNETAR, "produce", where, "-m", message, *options, url=url)


def test_dead_letters_are_listed_shown_and_moved_back(url: str) -> None:
    dead_topic = "cli-orders-audit-dead"
    marked(dead_topic, url, "first", topic="cli-orders", subscription="audit", attempts="3",
           reason="no such customer", failed_at_ms="1700000000000")
    marked(dead_topic, url, "second", topic="cli-orders", subscription="audit", attempts="3",
           reason="timeout", failed_at_ms="1700000000000")
    none = run(*MAGNETAR, "dlq", "redrive", dead_topic, "--filter", "tag = 'x'", url=url)
    assert none == ""  # and now the subscription that keeps them is there

    rows = json.loads(run(*MAGNETAR, "dlq", "list", dead_topic, "--json", url=url))
    assert [(row["topic"], row["attempts"], row["reason"]) for row in rows] == [
        ("cli-orders", 3, "no such customer"), ("cli-orders", 3, "timeout")]
    shown = run(*MAGNETAR, "dlq", "peek", dead_topic, "-n", "1", url=url)
    assert "dead_letter.reason: no such customer" in shown and "  first" in shown

    moved = json.loads(run(
        *MAGNETAR, "dlq", "redrive", dead_topic, "--json", "--filter",
        "dead_letter.reason LIKE '%time%'", url=url))
    assert moved == [{"moved": 1, "topic": "persistent://public/default/cli-orders"}]
    printed = run(*MAGNETAR, "consume", "cli-orders", "-s", "s", "-n", "1", url=url)
    assert printed == "second\n"
    assert "first" in run(*MAGNETAR, "dlq", "peek", dead_topic, url=url)


def test_a_dead_letter_of_a_senseless_time_is_listed(url: str) -> None:
    marked("cli-far-dead", url, "one", topic="cli-far", subscription="s", failed_at_ms="9" * 18)
    run(*MAGNETAR, "dlq", "redrive", "cli-far-dead", "--filter", "tag = 'x'", url=url)

    rows = json.loads(run(*MAGNETAR, "dlq", "list", "cli-far-dead", "--json", url=url))

    assert [row["failed_at"] for row in rows] == ["9" * 18 + " ms"]


def test_that_there_are_no_dead_letters_is_told(url: str) -> None:
    marked("cli-none-dead", url, "one", topic="cli-none", subscription="s")
    run(*MAGNETAR, "dlq", "redrive", "cli-none-dead", url=url)

    for verb in ("list", "peek"):
        done = subprocess.run(
            [*MAGNETAR, "dlq", verb, "cli-none-dead", "--url", url], capture_output=True,
            text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "no dead letters\n"), verb


def test_what_cannot_go_back_is_told(url: str) -> None:
    dead("cli-lost", url, "one", "two")

    done = subprocess.run(
        [*MAGNETAR, "dlq", "redrive", "cli-lost", "--url", url], capture_output=True, text=True,
        timeout=60)

    assert done.returncode == 0
    assert "2 stay: do not say where they came from; name a topic with --to" in done.stderr
    run(*MAGNETAR, "dlq", "redrive", "cli-lost", "--to", "cli-found", url=url)
    assert run(*MAGNETAR, "consume", "cli-found", "-s", "s", "-n", "2", url=url) == "one\ntwo\n"
