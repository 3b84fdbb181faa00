"""The one table of policies: name, type, default, bounds, level and meaning of each setting.

`TopicPolicies` is the table: every field is declared by `_setting`, and validation, listing and
documentation are derived from the fields. Policies are stored as JSON objects at three levels,
cluster < namespace < topic; a level names only what it changes, and the narrower level wins.

Validation runs twice. What someone wants to store is refused when it is unknown, of another
type, out of bounds or set below its level. What is read back is checked again, since another
version may have written it; there an unknown setting is a newer version's and is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final

from tenants.errors import PolicyError

UNLIMITED: Final = -1
"""In settings whose meaning says so: no bound."""

INT64_MAX: Final = 2**63 - 1
KIB: Final = 1024
MIB: Final = 1024 * KIB

PolicyValue = int | bool | str


class Level(IntEnum):
    """Where a policy is stored, from wide to narrow; the narrower wins."""

    CLUSTER = 0
    NAMESPACE = 1
    TOPIC = 2


class BacklogQuotaPolicy(StrEnum):
    """What happens at a topic whose backlog is above its quota."""

    PRODUCER_HOLD = "producer_hold"
    PRODUCER_REJECT = "producer_reject"
    EVICT_OLDEST = "evict_oldest"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table. Bounds are inclusive, and None but for numbers; the type of a choice
    is a StrEnum."""

    name: str
    type: type[PolicyValue]
    default: PolicyValue
    minimum: int | None
    maximum: int | None
    narrowest: Level
    doc: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that can be chosen; empty for numbers and switches."""
        if not issubclass(self.type, StrEnum):
            return ()
        return tuple(choice.value for choice in self.type)

    def check(self, value: object, level: Level) -> PolicyValue:
        """The value, known to be good; raises PolicyError."""
        if level > self.narrowest:
            raise PolicyError(
                self.name,
                f"is set for a {self.narrowest.name.lower()}, not for a {level.name.lower()}",
            )
        if self.type is bool:
            if not isinstance(value, bool):
                raise PolicyError(self.name, f"must be true or false, not {value!r}")
            return value
        if self.choices:
            if value not in self.choices:
                raise PolicyError(
                    self.name, f"must be {' or '.join(self.choices)}, not {value!r}"
                )
            return self.type(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise PolicyError(self.name, f"must be a whole number, not {value!r}")
        assert self.minimum is not None and self.maximum is not None
        if not self.minimum <= value <= self.maximum:
            raise PolicyError(
                self.name, f"must be from {self.minimum} to {self.maximum}, not {value}"
            )
        return value


def _setting(
    default: PolicyValue,
    doc: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    narrowest: Level = Level.TOPIC,
) -> Any:
    line = {"doc": doc, "minimum": minimum, "maximum": maximum, "narrowest": narrowest}
    return dataclasses.field(default=default, metadata=line)


@dataclass(frozen=True, slots=True)
class TopicPolicies:
    """What holds for one topic; made by `overlay` or with keyword arguments, always valid."""

    ensemble_size: int = _setting(
        3, "Bookies a ledger is striped over; fewer are used while fewer can be written to.",
        minimum=1, maximum=32,
    )
    write_quorum: int = _setting(
        3, "Copies of every entry.", minimum=1, maximum=32,
    )
    ack_quorum: int = _setting(
        2, "Copies that must be durable before a publish is acknowledged; never lowered.",
        minimum=1, maximum=32,
    )
    retention_minutes: int = _setting(
        0, "How long messages are kept once every subscription has them; -1 for ever.",
        minimum=UNLIMITED, maximum=INT64_MAX // 60_000,
    )
    retention_bytes: int = _setting(
        UNLIMITED, "How many bytes of such messages are kept at most; -1 without limit.",
        minimum=UNLIMITED, maximum=INT64_MAX,
    )
    max_message_size_bytes: int = _setting(
        5 * MIB, "The largest batch a producer may send, as it goes over the wire.",
        minimum=KIB, maximum=8 * MIB,
    )
    max_ledger_bytes: int = _setting(
        256 * MIB, "A ledger past this size is closed and the next begun; space is freed by"
        " whole ledgers.",
        minimum=64 * KIB, maximum=1024 * 1024 * MIB,
    )
    max_ledger_entries: int = _setting(
        1_000_000, "A ledger with so many entries is closed and the next begun.",
        minimum=1, maximum=1_000_000_000,
    )
    max_ledger_age_ms: int = _setting(
        4 * 3_600_000, "A ledger this old is closed and the next begun, in milliseconds.",
        minimum=1_000, maximum=366 * 24 * 3_600_000,
    )
    roll_consumed_bytes: int = _setting(
        64 * MIB, "An open ledger of which so many bytes are consumed is closed and the next begun,"
        " so that their space can be freed.",
        minimum=64 * KIB, maximum=1024 * 1024 * MIB,
    )
    roll_consumed_idle_ms: int = _setting(
        20_000, "An open ledger whose messages are all consumed is closed, so that its space can"
        " be freed, once nothing was appended for so long, in milliseconds; one below 1 MiB after"
        " fifteen times as long.",
        minimum=100, maximum=366 * 24 * 3_600_000,
    )
    message_ttl_ms: int = _setting(
        0, "How long a message waits for its subscriptions, in milliseconds from its append on;"
        " then it counts as acknowledged. 0: until they have it.",
        minimum=0, maximum=INT64_MAX // 2,
    )
    dead_letter_expired: bool = _setting(
        False, "Whether a message that expires goes to the subscription's dead-letter topic.",
    )
    backlog_quota_bytes: int = _setting(
        UNLIMITED, "Bytes from the slowest subscription's position to the end of the topic above"
        " which the backlog is too large; -1 without limit.",
        minimum=UNLIMITED, maximum=INT64_MAX,
    )
    backlog_quota_age_ms: int = _setting(
        UNLIMITED, "Age of the oldest unconsumed message, in milliseconds, above which the backlog"
        " is too large; -1 without limit.",
        minimum=UNLIMITED, maximum=INT64_MAX // 2,
    )
    backlog_quota_policy: BacklogQuotaPolicy = _setting(  # noqa: RUF009
        BacklogQuotaPolicy.PRODUCER_HOLD, "What happens while the backlog is too large: producers"
        " wait, their messages are refused, or the oldest messages are dropped unconsumed.",
    )
    auto_create_topics: bool = _setting(
        True, "Whether a topic comes into being by its first use.", narrowest=Level.NAMESPACE,
    )
    auto_create_partitions: int = _setting(
        0, "How many partitions a topic gets that comes into being by its first use; 0: it is not"
        " partitioned.",
        minimum=0, maximum=1_000, narrowest=Level.NAMESPACE,
    )
    max_unacked_messages_per_consumer: int = _setting(
        50_000, "Messages one consumer may hold unacknowledged before it gets no more; 0 or -1"
        " without limit.",
        minimum=UNLIMITED, maximum=INT64_MAX,
    )
    max_unacked_messages_per_subscription: int = _setting(
        200_000, "Messages delivered and not acknowledged, over all consumers of a subscription,"
        " above which nothing new is delivered; 0 or -1 without limit.",
        minimum=UNLIMITED, maximum=INT64_MAX,
    )
    global_order: bool = _setting(
        False, "Whether the topic keeps one order of all its messages: it is then not partitioned,"
        " whatever `auto_create_partitions` says, and can get no partitions.",
    )
    deduplication: bool = _setting(
        True, "Whether a batch sent again is recognised and stored once.",
    )

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            value = setting.check(getattr(self, setting.name), Level.CLUSTER)
            object.__setattr__(self, setting.name, value)  # a choice given as plain text
        if self.write_quorum > self.ensemble_size:
            raise PolicyError(
                "write_quorum", f"{self.write_quorum} is above ensemble_size {self.ensemble_size}"
            )
        if self.ack_quorum > self.write_quorum:
            raise PolicyError(
                "ack_quorum", f"{self.ack_quorum} is above write_quorum {self.write_quorum}"
            )

    def overlay(self, changes: Mapping[str, PolicyValue]) -> TopicPolicies:
        """These policies with some changed; raises PolicyError when they do not fit together."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _settings() -> Iterable[Setting]:
    for field in dataclasses.fields(TopicPolicies):
        assert isinstance(field.default, int | str)
        yield Setting(
            name=field.name, type=type(field.default), default=field.default, **field.metadata
        )


SETTINGS: Final[tuple[Setting, ...]] = tuple(_settings())
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def checked_to_store(changes: Mapping[str, object], level: Level) -> dict[str, PolicyValue]:
    """What a level may store, every name and value good; raises PolicyError."""
    for name in changes:
        if name not in _BY_NAME:
            raise PolicyError(name, f"is unknown; known are {', '.join(_BY_NAME)}")
    return checked_from_store(changes, level)


def checked_from_store(stored: Mapping[str, object], level: Level) -> dict[str, PolicyValue]:
    """The known settings of a stored level; raises PolicyError for a bad value."""
    return {
        name: _BY_NAME[name].check(value, level)
        for name, value in stored.items()
        if name in _BY_NAME
    }


def parse_changes(texts: Iterable[str]) -> dict[str, PolicyValue | None]:
    """Changes as people type them, `name=value`; an empty value takes a policy back.

    Switches are true or false. Raises PolicyError; bounds and choices are checked when it is
    stored.
    """
    changes: dict[str, PolicyValue | None] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not name:
            raise PolicyError(name or text, f"write name=value, not {text!r}")
        changes[name] = _parse_value(name, value) if value else None
    return changes


def _parse_value(name: str, text: str) -> PolicyValue:
    lowered = text.lower()
    setting = _BY_NAME.get(name)
    if setting is not None and setting.choices:
        return lowered
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return int(text.replace("_", ""))
    except ValueError:
        problem = f"must be a whole number, or true or false, not {text!r}"
        raise PolicyError(name, problem) from None
