"""Who may publish to a topic: any number of shared producers, or one exclusive one.

Every exclusive producer gets a topic epoch above all before it. As long as nobody else came since
its link broke, it may come back with it; as soon as somebody did, it is fenced. That much is
durable, as a record that is written before anybody is told; this class does no I/O.

`OPENINGS` is the whole of the rule for who comes, `AFTER` says what that makes of the topic.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from broker.conversation import AccessMode
from broker.state_records import TopicEpoch
from magnetar.errors import (
    ConnectionFailed,
    InvalidArgument,
    MagnetarError,
    ProducerBusy,
    ProducerFenced,
)


class Seat(Enum):
    """What a topic's producers are."""

    FREE = "free"
    """Nobody is connected, and nobody may come back as the exclusive one."""
    SHARED = "shared"
    """Shared producers are connected."""
    HELD = "held"
    """An exclusive producer is connected, or about to be told that it is."""
    EXPECTED = "expected"
    """The owner changed under an exclusive producer; it gets time to come back."""
    LEFT = "left"
    """An exclusive producer lost its link: it may come back, and others may come."""


class Coming(Enum):
    """Who asks to be let in."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    WAITING = "waiting"
    FENCING = "fencing"
    BACK = "back"
    """The exclusive producer of the newest epoch, again."""


class Answer(Enum):
    """What it gets."""

    ADMITTED = "admitted"
    """Beside the other shared ones."""
    GRANTED = "granted"
    """The topic, under a new epoch; whoever else is connected or waits is fenced."""
    REGAINED = "regained"
    """The topic, under the epoch it had."""
    QUEUED = "queued"
    BUSY = "busy"
    FENCED = "fenced"


OPENINGS: dict[Seat, dict[Coming, Answer]] = {
    Seat.FREE: {
        Coming.SHARED: Answer.ADMITTED, Coming.EXCLUSIVE: Answer.GRANTED,
        Coming.WAITING: Answer.GRANTED, Coming.FENCING: Answer.GRANTED,
        Coming.BACK: Answer.FENCED,
    },
    Seat.SHARED: {
        Coming.SHARED: Answer.ADMITTED, Coming.EXCLUSIVE: Answer.BUSY,
        Coming.WAITING: Answer.QUEUED, Coming.FENCING: Answer.GRANTED,
        Coming.BACK: Answer.FENCED,
    },
    Seat.HELD: {
        Coming.SHARED: Answer.BUSY, Coming.EXCLUSIVE: Answer.BUSY,
        Coming.WAITING: Answer.QUEUED, Coming.FENCING: Answer.GRANTED,
        Coming.BACK: Answer.REGAINED,
    },
    Seat.EXPECTED: {
        Coming.SHARED: Answer.BUSY, Coming.EXCLUSIVE: Answer.BUSY,
        Coming.WAITING: Answer.QUEUED, Coming.FENCING: Answer.GRANTED,
        Coming.BACK: Answer.REGAINED,
    },
    Seat.LEFT: {
        Coming.SHARED: Answer.ADMITTED, Coming.EXCLUSIVE: Answer.GRANTED,
        Coming.WAITING: Answer.GRANTED, Coming.FENCING: Answer.GRANTED,
        Coming.BACK: Answer.REGAINED,
    },
}
AFTER = {
    Answer.ADMITTED: Seat.SHARED, Answer.GRANTED: Seat.HELD, Answer.REGAINED: Seat.HELD,
}
"""Any other answer changes nothing."""

_COMING = {
    AccessMode.SHARED: Coming.SHARED, AccessMode.EXCLUSIVE: Coming.EXCLUSIVE,
    AccessMode.WAIT_FOR_EXCLUSIVE: Coming.WAITING,
    AccessMode.EXCLUSIVE_WITH_FENCING: Coming.FENCING,
}


@dataclass(eq=False, slots=True)
class Admission:
    """One opening of a producer, from its asking to its leaving."""

    name: str
    mode: AccessMode
    topic_epoch: int = 0
    """As it was told before; then as it is to be told. 0 for shared ones."""
    fenced: MagnetarError | None = None
    """Why it is out again."""


@dataclass(frozen=True, slots=True)
class Entered:
    """The answer, and whom it puts out."""

    answer: Answer
    fenced: tuple[Admission, ...] = ()


class ProducerAccess:
    """The seat of one topic, its newest epoch, and who waits for it."""

    def __init__(self, waiting_limit: int) -> None:
        self._waiting_limit = waiting_limit
        self.seat = Seat.FREE
        self.epoch = 0
        self.claimant = ""
        """Who may come back with the newest epoch; empty: nobody."""
        self._shared: set[Admission] = set()
        self._holder: Admission | None = None
        self._waiting: deque[Admission] = deque()

    @property
    def record(self) -> TopicEpoch:
        """What is to be durable before anybody hears of it."""
        return TopicEpoch(self.epoch, self.claimant, self.seat in (Seat.HELD, Seat.EXPECTED))

    def restore(self, record: TopicEpoch) -> None:
        """A record of the state ledger, in order."""
        self.epoch, self.claimant = record.epoch, record.claimant
        if not record.claimant:
            self.seat = Seat.FREE
        else:
            self.seat = Seat.EXPECTED if record.connected else Seat.LEFT

    @property
    def holder(self) -> Admission | None:
        """The exclusive producer."""
        return self._holder

    @property
    def waiting(self) -> int:
        """How many wait to be exclusive."""
        return len(self._waiting)

    def enter(self, admission: Admission) -> Entered:
        """Somebody asks. Raises ProducerBusy, ProducerFenced, InvalidArgument."""
        coming = self._coming(admission)
        answer = OPENINGS[self.seat][coming]
        if coming is Coming.SHARED and self._waiting:
            answer = Answer.BUSY  # else they would wait for ever
        match answer:
            case Answer.ADMITTED:
                self._shared.add(admission)
                self.claimant = ""
            case Answer.GRANTED:
                return Entered(answer, self._grant(admission))
            case Answer.REGAINED:
                return Entered(answer, self._regain(admission))
            case Answer.QUEUED:
                if len(self._waiting) >= self._waiting_limit:
                    raise ProducerBusy(
                        f"{len(self._waiting)} producers wait for the topic already"
                    )
                self._waiting.append(admission)
            case Answer.BUSY:
                raise ProducerBusy(self._why_busy())
            case Answer.FENCED:
                raise _outdated(admission, self.epoch)
        self.seat = AFTER.get(answer, self.seat)
        return Entered(answer)

    def leave(self, admission: Admission, *, for_good: bool) -> Admission | None:
        """It is gone, `for_good` or with its link; answers with who waited and has the topic
        now. Anybody may leave twice, and after having been fenced."""
        if admission in self._shared:
            self._shared.discard(admission)
            if not self._shared:
                self.seat = Seat.FREE
        elif admission is self._holder:
            self._holder = None
            if for_good:
                self.claimant = ""
            self.seat = Seat.FREE if for_good else Seat.LEFT
        elif admission in self._waiting:
            self._waiting.remove(admission)
        return self._promote()

    def expect_no_more(self) -> Admission | None:
        """The exclusive producer had its time to come back; answers as `leave`."""
        if self.seat is Seat.EXPECTED:
            self.seat = Seat.LEFT
        return self._promote()

    def _coming(self, admission: Admission) -> Coming:
        """How it comes; raises for an epoch that is not the newest, or whose chance is gone."""
        if not admission.topic_epoch:
            return _COMING[admission.mode]
        if admission.mode is AccessMode.SHARED:
            raise InvalidArgument("a shared producer has no topic epoch")
        if admission.topic_epoch != self.epoch or admission.name != self.claimant:
            raise _outdated(admission, self.epoch)
        return Coming.BACK

    def _grant(self, admission: Admission) -> tuple[Admission, ...]:
        out = [*self._shared, *self._waiting]
        if self._holder is not None:
            out.append(self._holder)
        error = ProducerFenced(
            f"producer {admission.name!r} took the topic for itself, with fencing"
        )
        for one in out:
            one.fenced = error
        self._shared.clear()
        self._waiting.clear()
        self._seat(admission)
        return tuple(out)

    def _regain(self, admission: Admission) -> tuple[Admission, ...]:
        """Its own older stream may not have ended yet."""
        before, self._holder = self._holder, admission
        self.seat = AFTER[Answer.REGAINED]
        if before is None:
            return ()
        before.fenced = ConnectionFailed(
            f"another stream of producer {admission.name!r} came later; open it again"
        )
        return (before,)

    def _seat(self, admission: Admission) -> None:
        self.epoch += 1
        admission.topic_epoch = self.epoch
        self.claimant = admission.name
        self._holder = admission
        self.seat = AFTER[Answer.GRANTED]

    def _promote(self) -> Admission | None:
        if not self._waiting or OPENINGS[self.seat][Coming.WAITING] is not Answer.GRANTED:
            return None
        first = self._waiting.popleft()
        self._seat(first)
        return first

    def _why_busy(self) -> str:
        match self.seat:
            case Seat.HELD:
                return f"the topic has an exclusive producer, {self.claimant!r}"
            case Seat.EXPECTED:
                return (
                    f"the topic's exclusive producer, {self.claimant!r}, has a moment to come back"
                    " after a change of owner; try again"
                )
            case _ if self._waiting:
                return f"producer {self._waiting[0].name!r} waits to be the topic's only one"
            case _:
                return f"the topic has {len(self._shared)} other producers"


def _outdated(admission: Admission, epoch: int) -> ProducerFenced:
    return ProducerFenced(
        f"producer {admission.name!r} had the topic under epoch {admission.topic_epoch}; others"
        f" published since, or could have (the epoch is {epoch} now)"
    )
