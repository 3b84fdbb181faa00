"""How much `batch_receive` waits for."""

from __future__ import annotations

from dataclasses import dataclass

from magnetar.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BatchReceivePolicy:
    """A batch is complete with so many messages or bytes, or when `timeout_ms` have passed
    (0: never); 0 messages or bytes: no such limit. Raises InvalidArgument."""

    max_num_message: int = 100
    max_num_bytes: int = 10 << 20
    timeout_ms: int = 100

    def __post_init__(self) -> None:
        if min(self.max_num_message, self.max_num_bytes, self.timeout_ms) < 0:
            raise InvalidArgument("the limits of a batch are 0 or more")
        if not (self.max_num_message or self.max_num_bytes or self.timeout_ms):
            raise InvalidArgument("a batch needs a limit")
