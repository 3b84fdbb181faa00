"""The blocking SDK has what the asynchronous one has, member by member."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import magnetar
from magnetar import sync
from magnetar.multi_topic_reader import MultiTopicReader

PAIRS: dict[type, tuple[type, ...]] = {
    sync.Client: (magnetar.Client,),
    sync.Producer: (magnetar.Producer, magnetar.PartitionedProducer),
    sync.Consumer: (magnetar.Consumer,),
    sync.Reader: (magnetar.Reader, MultiTopicReader),
    sync.PullConsumer: (magnetar.PullConsumer,),
    sync.Ticket: (magnetar.Ticket,),
    sync.Tickets: (magnetar.Tickets,),
}
each = pytest.mark.parametrize("blocking", PAIRS, ids=lambda kind: kind.__name__)

ASYNCHRONOUS_ALONE = {
    "open": "called by the client, before anybody has the object",
    "ready": "the blocking calls wait for room by themselves",
    "add_done_callback": "`send_async` takes a callback",
    "collecting": "whether a batch has left is for those who share its loop",
}
BLOCKING_ALONE = {
    "send_async": "`send` blocks here; there it never does",
    "result": "there tickets are awaited; their `result` does not wait",
}


def members(kinds: tuple[type, ...]) -> dict[str, Any]:
    """What every one of these classes shows."""
    shown = set.intersection(*({one for one in dir(kind) if one[0] != "_"} for kind in kinds))
    return {name: inspect.getattr_static(kinds[0], name) for name in shown}


def parameters(method: Any) -> list[inspect.Parameter]:
    """In their order, with their defaults; each side has its own types."""
    return [
        one.replace(annotation=inspect.Parameter.empty)
        for one in inspect.signature(method).parameters.values()
    ]


def positional(given: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return [one for one in given if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]


@each
def test_both_have_the_same_members(blocking: type) -> None:
    here, there = members((blocking,)), members(PAIRS[blocking])

    assert there.keys() - here.keys() <= ASYNCHRONOUS_ALONE.keys()
    assert here.keys() - there.keys() <= BLOCKING_ALONE.keys()


@each
def test_both_take_the_same_arguments(blocking: type) -> None:
    here, there = members((blocking,)), members(PAIRS[blocking])

    for name in here.keys() & there.keys():
        assert isinstance(here[name], property) == isinstance(there[name], property), name
        if isinstance(here[name], property):
            continue
        taken, wanted = parameters(here[name]), parameters(there[name])
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken):
            taken, wanted = positional(taken), positional(wanted)  # keywords are handed on
        assert taken == wanted, name


def test_nothing_is_named_that_does_not_differ() -> None:
    here = set[str]().union(*(members((blocking,)) for blocking in PAIRS))
    there = set[str]().union(*(members(kinds) for kinds in PAIRS.values()))

    assert ASYNCHRONOUS_ALONE.keys() <= there - here
    assert BLOCKING_ALONE.keys() <= here


def test_everything_that_it_makes_can_be_imported() -> None:
    assert {kind.__name__ for kind in PAIRS} | {"THREAD"} == set(sync.__all__)
