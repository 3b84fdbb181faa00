"""Frames between a served metadata store and its clients; no I/O here.

Big-endian. Request: u8 kind, u64 request id, u8 flag, i64 version, u64 session id, u32 timeout
in ms, u16 length of the path, path, value; with flag 2 the guard before the value: i64 version,
u16 length of its path, path. Reply: u8 kind, u64 request id, u8 code, i64 version,
u64 session id, u32 timeout in ms, body. Each kind uses the fields it needs, the others are 0.
A link begins with HELLO, whose value is MAGIC and whose version is the protocol's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from magnetar.errors import (
    AlreadyExists,
    BadVersion,
    ConnectionLoss,
    InvalidArgument,
    InvalidFrame,
    MagnetarError,
    NotEmpty,
    NotFound,
    NotSupported,
    SessionExpired,
)
from metadata.store import MAX_VALUE_BYTES, Guard

MAGIC: Final = b"magnetar metadata"
PROTOCOL_VERSION: Final = 1
NO_VERSION: Final = -1
NO_REQUEST: Final = 0
"""Request id of what the server says by itself."""

_REQUEST: Final = struct.Struct(">BQBqQIH")
_REPLY: Final = struct.Struct(">BQBqQI")
_GUARD: Final = struct.Struct(">qH")
_EPHEMERAL: Final = 1
_GUARDED: Final = 2
MAX_PATH_BYTES: Final = 0xFFFF
MAX_REQUEST_BYTES: Final = (
    _REQUEST.size + MAX_PATH_BYTES + _GUARD.size + MAX_PATH_BYTES + MAX_VALUE_BYTES
)


class RequestKind(IntEnum):
    """What a client may ask."""

    HELLO = 1
    HEARTBEAT = 2
    GET = 3
    CREATE = 4
    PUT = 5
    DELETE = 6
    CHILDREN = 7
    WATCH = 8
    UNWATCH = 9
    CLOSE = 10


class ReplyKind(IntEnum):
    """What a server may say."""

    OK = 64
    ERROR = 65
    EVENT = 66


class ErrorCode(IntEnum):
    """Refusals, each standing for one type of error."""

    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    ALREADY_EXISTS = 3
    BAD_VERSION = 4
    NOT_EMPTY = 5
    CONNECTION_LOSS = 6
    SESSION_EXPIRED = 7
    INVALID_FRAME = 8
    NOT_SUPPORTED = 9


_ERRORS: Final[dict[ErrorCode, type[MagnetarError]]] = {
    ErrorCode.INVALID_ARGUMENT: InvalidArgument,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.ALREADY_EXISTS: AlreadyExists,
    ErrorCode.BAD_VERSION: BadVersion,
    ErrorCode.NOT_EMPTY: NotEmpty,
    ErrorCode.CONNECTION_LOSS: ConnectionLoss,
    ErrorCode.SESSION_EXPIRED: SessionExpired,
    ErrorCode.INVALID_FRAME: InvalidFrame,
    ErrorCode.NOT_SUPPORTED: NotSupported,
}
_CODES: Final = {kind: code for code, kind in _ERRORS.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One frame from a client; `ephemeral` is for CREATE, `guard` for PUT and DELETE."""

    kind: RequestKind
    request_id: int
    path: str = ""
    value: bytes = b""
    version: int = NO_VERSION
    ephemeral: bool = False
    session_id: int = 0
    timeout_ms: int = 0
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One frame from the server; the body is a value, names, an error's text or a path."""

    kind: ReplyKind
    request_id: int
    body: bytes = b""
    version: int = NO_VERSION
    code: int = 0
    session_id: int = 0
    timeout_ms: int = 0


def encode_request(request: Request) -> bytes:
    """Raises InvalidArgument for a path above MAX_PATH_BYTES."""
    path, guard = _encode_path(request.path), b""
    flags = _EPHEMERAL if request.ephemeral else 0
    if request.guard is not None:
        flags |= _GUARDED
        beside = _encode_path(request.guard.path)
        guard = _GUARD.pack(request.guard.version, len(beside)) + beside
    head = _REQUEST.pack(
        request.kind, request.request_id, flags, request.version,
        request.session_id, request.timeout_ms, len(path),
    )  # fmt: skip
    return head + path + guard + request.value


def _encode_path(text: str) -> bytes:
    path = text.encode()
    if len(path) > MAX_PATH_BYTES:
        raise InvalidArgument(f"a metadata path of {len(path)} bytes is above {MAX_PATH_BYTES}")
    return path


def decode_request(frame: memoryview) -> Request:
    """Raises InvalidFrame."""
    if not _REQUEST.size <= len(frame) <= MAX_REQUEST_BYTES:
        raise InvalidFrame(f"a metadata request of {len(frame)} bytes")
    kind, request_id, flags, version, session_id, timeout_ms, path_length = _REQUEST.unpack_from(
        frame
    )
    guard: Guard | None = None
    try:
        if flags > _EPHEMERAL | _GUARDED:
            raise ValueError("an unknown flag")
        path, end = _decode_path(frame, _REQUEST.size, path_length)
        if flags & _GUARDED:
            guard_version, guard_length = _GUARD.unpack_from(frame, end)
            beside, end = _decode_path(frame, end + _GUARD.size, guard_length)
            guard = Guard(beside, guard_version)
        return Request(
            RequestKind(kind), request_id, path, bytes(frame[end:]), version,
            bool(flags & _EPHEMERAL), session_id, timeout_ms, guard,
        )  # fmt: skip
    except (ValueError, struct.error) as error:
        raise InvalidFrame(f"a malformed metadata request: {error}") from error


def _decode_path(frame: memoryview, start: int, length: int) -> tuple[str, int]:
    """A path, and where it ends."""
    end = start + length
    if end > len(frame):
        raise ValueError("a field runs past the end")
    return bytes(frame[start:end]).decode(), end


def encode_reply(reply: Reply) -> bytes:
    head = _REPLY.pack(
        reply.kind, reply.request_id, reply.code, reply.version, reply.session_id,
        reply.timeout_ms,
    )  # fmt: skip
    return head + reply.body


def decode_reply(frame: memoryview) -> Reply:
    """Raises InvalidFrame."""
    if len(frame) < _REPLY.size:
        raise InvalidFrame(f"a metadata reply of {len(frame)} bytes")
    kind, request_id, code, version, session_id, timeout_ms = _REPLY.unpack_from(frame)
    try:
        known = ReplyKind(kind)
    except ValueError as error:
        raise InvalidFrame(f"a malformed metadata reply: {error}") from error
    body = bytes(frame[_REPLY.size :])
    return Reply(known, request_id, body, version, code, session_id, timeout_ms)


def encode_names(names: list[str]) -> bytes:
    """Names of nodes hold no `/`."""
    return "/".join(names).encode()


def decode_names(body: bytes) -> list[str]:
    return body.decode().split("/") if body else []


def error_reply(request_id: int, error: MagnetarError) -> Reply:
    """The reply that becomes the same error at the client; unnamed ones become unknown."""
    code = _CODES.get(type(error), ErrorCode.CONNECTION_LOSS)
    return Reply(ReplyKind.ERROR, request_id, str(error).encode(), code=code)


def error_of(reply: Reply) -> MagnetarError:
    """The error an ERROR reply stands for; a code of a newer server is ConnectionLoss."""
    text = reply.body.decode(errors="replace")
    try:
        return _ERRORS[ErrorCode(reply.code)](text)
    except ValueError:
        return ConnectionLoss(f"an unknown refusal {reply.code}: {text}")
