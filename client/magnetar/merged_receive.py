"""The messages of several links as one stream, served in turns.

Nothing is buffered here: a message stays in its own link's queue until it is handed out, so that
seeks, permits and given-back messages work as for one topic. A link says when it has something;
from then on it stands in line, gives a few messages when it is its turn, and goes to the back.
So a quiet topic waits for a turn of each busy one, not for their backlogs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from magnetar.consumer_link import ConsumerLink
from magnetar.errors import EndOfTopic, InvalidArgument, MagnetarError, OperationTimeout
from magnetar.message import Message
from magnetar.waiters import Waiters

TURN_MESSAGES: Final = 32
UNTOLD_ERRORS: Final = 100
"""Errors kept for the next `receive`; the oldest are forgotten beyond."""

Link = TypeVar("Link", bound=ConsumerLink)
Trouble = Callable[[Link, MagnetarError], MagnetarError | None]
"""Told when a link gave an error instead of a message; answers with what the user is to see. One
that has ended is to be removed."""


class MergedReceive(Generic[Link]):
    """Links come and go; `receive` gives what any of them has."""

    def __init__(self, trouble: Trouble[Link]) -> None:
        self._trouble = trouble
        self._links: dict[Link, None] = {}
        self._ready: deque[Link] = deque()
        self._listed: set[Link] = set()
        self._at_end: set[Link] = set()
        self._left = TURN_MESSAGES
        """Messages until the first in line goes to the back."""
        self._untold: deque[MagnetarError] = deque(maxlen=UNTOLD_ERRORS)
        self._receivers = Waiters()
        self.end: MagnetarError | None = None
        """What ended it all: told when nothing more is to be had."""

    def add(self, link: Link) -> None:
        """Its messages are handed out too."""
        self._links[link] = None
        link.on_ready = lambda: self._stand_in_line(link)
        self._stand_in_line(link)

    def remove(self, link: Link) -> None:
        """Nothing more of it is handed out."""
        self._links.pop(link, None)
        link.on_ready = None
        self._at_end.discard(link)
        if link in self._listed:
            self._listed.discard(link)
            if self._ready[0] is link:
                self._left = TURN_MESSAGES
            self._ready.remove(link)
        self._receivers.wake()

    def report(self, error: MagnetarError) -> None:
        """Raise it from the next `receive`."""
        self._untold.append(error)
        self._receivers.wake()

    def finish(self, error: MagnetarError) -> None:
        """Raise it from every `receive` from now on."""
        if self.end is None:
            self.end = error
        self._receivers.wake()

    async def receive(self, timeout_millis: int | None) -> Message:
        """The next message; raises OperationTimeout, EndOfTopic after the last message of the
        last topic, or what the user is to see."""
        found = self._take(1, None) or await self._wait(timeout_millis, 1, None)
        return found[0]

    async def receive_many(
        self, most: int, timeout_millis: int | None, most_bytes: int | None
    ) -> list[Message]:
        """What is there, at least one message; raises as `receive`."""
        if most < 1 or (most_bytes is not None and most_bytes < 1):
            raise InvalidArgument("ask for at least one message, and one byte")
        return self._take(most, most_bytes) or await self._wait(timeout_millis, most, most_bytes)

    async def until_enough(
        self, timeout_millis: int | None, enough: int, enough_bytes: int | None
    ) -> None:
        """Wait until there is as much, or a link's queue is full, or there is something to tell;
        raises OperationTimeout."""
        try:
            async with asyncio.timeout(
                None if timeout_millis is None else timeout_millis / 1000
            ):
                while not self._is_enough(enough, enough_bytes):
                    await self._receivers.wait()
        except TimeoutError as error:
            raise OperationTimeout(f"no {enough} messages within {timeout_millis} ms") from error

    def take(self, most: int, most_bytes: int | None) -> list[Message]:
        """What is there, perhaps nothing; raises as `receive` when there is something to tell
        and no message."""
        found = self._take(most, most_bytes)
        if not found:
            self._tell()
        return found

    async def _wait(
        self, timeout_millis: int | None, most: int, most_bytes: int | None
    ) -> list[Message]:
        """Does not lose a message when cancelled."""
        try:
            async with asyncio.timeout(
                None if timeout_millis is None else timeout_millis / 1000
            ):
                while not (found := self._take(most, most_bytes)):
                    self._tell()
                    await self._receivers.wait()
                return found
        except TimeoutError as error:
            raise OperationTimeout(f"no message within {timeout_millis} ms") from error

    def _take(self, most: int, most_bytes: int | None) -> list[Message]:
        """From the first in line, as long as its turn is, then from the next."""
        taken: list[Message] = []
        while self._ready and most > 0:
            link = self._ready[0]
            try:
                found = link.take(min(most, self._left), most_bytes, at_least_one=not taken)
            except EndOfTopic:
                self._at_end.add(link)
                self._step_aside()
                continue
            except MagnetarError as error:
                self._pass_on(link, error)
                if self._untold and not taken:
                    raise self._untold.popleft() from error
                continue
            if not found:
                if link.ready_messages:
                    break  # too large for what is left
                self._step_aside()
                continue
            self._at_end.discard(link)
            taken += found
            most -= len(found)
            if most_bytes is not None:
                most_bytes = max(most_bytes - sum(
                    [message.entry.view.message_bytes(message.index) for message in found]), 0)
            self._left -= len(found)
            if self._left <= 0:
                self._ready.rotate(-1)
                self._left = TURN_MESSAGES
        return taken

    def _pass_on(self, link: Link, error: MagnetarError) -> None:
        told = self._trouble(link, error)
        if told is not None:
            self._untold.append(told)

    def _tell(self) -> None:
        """Raise what is to be told, when there is no message."""
        if self._untold:
            raise self._untold.popleft()
        if self.end is not None:
            raise self.end
        if self._all_at_end:
            raise EndOfTopic("all topics were terminated and all of their messages received")

    def _is_enough(self, enough: int, enough_bytes: int | None) -> bool:
        """Also when no more will come, or something is to be told."""
        if self._untold or self.end is not None:
            return True
        count = size_bytes = 0
        for link in self._ready:
            error = link.trouble
            if link.queue_full or (error is not None and not isinstance(error, EndOfTopic)):
                return True
            count += link.ready_messages
            size_bytes += link.ready_bytes
        if count >= enough or (enough_bytes is not None and size_bytes >= enough_bytes):
            return True
        return bool(self._links) and all(
            isinstance(link.trouble, EndOfTopic) for link in self._links)

    @property
    def _all_at_end(self) -> bool:
        """A seek back takes a link from its end before its messages come."""
        if not self._links or len(self._at_end) < len(self._links):
            return False
        self._at_end = {one for one in self._at_end if isinstance(one.trouble, EndOfTopic)}
        return len(self._at_end) == len(self._links)

    def _stand_in_line(self, link: Link) -> None:
        if link not in self._listed:
            self._listed.add(link)
            self._ready.append(link)
        self._receivers.wake()

    def _step_aside(self) -> None:
        self._listed.discard(self._ready.popleft())
        self._left = TURN_MESSAGES
