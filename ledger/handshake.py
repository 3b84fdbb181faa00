"""Opening a link to a bookie: each side proves the cluster key, and versions are agreed.

    client                                   bookie
    AWAIT_CHALLENGE  -- HELLO(versions, features, nonce) -->  AWAIT_HELLO
                     <-- CHALLENGE(version, nonce, bookie id) --  AWAIT_PROOF
    AWAIT_WELCOME    -- PROOF(hmac) -->
    READY            <-- WELCOME(hmac) --                     READY
    CLOSED           <-- ERROR(status, text), link dropped    CLOSED

Both proofs cover both nonces, the bookie's id and everything negotiated, so that neither a
replay, nor a redirected link, nor a forced older version passes. Neither side sends or accepts
a request before READY. No I/O: frames in, frames out.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ledger.wire import PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Kind, Status, peek
from magnetar.errors import ConnectionFailed, InvalidFrame, MagnetarError, Unauthorized
from magnetar.ids import BookieId

NONCE_BYTES: Final = 32
_MAC_BYTES: Final = 32
_MAX_TEXT_BYTES: Final = 1024

_HELLO = struct.Struct(f">BQHHQ{NONCE_BYTES}s")
_CHALLENGE = struct.Struct(f">BQHQ{NONCE_BYTES}s")
_PROOF = struct.Struct(f">BQ{_MAC_BYTES}s")
_ERROR = struct.Struct(">BQB")

FEATURES: Final = 0
"""Bits of optional abilities this version has; both sides use the intersection."""


class HandshakeState(Enum):
    """Where a side stands; the diagram above is the transition table."""

    AWAIT_HELLO = "await hello"
    AWAIT_PROOF = "await proof"
    AWAIT_CHALLENGE = "await challenge"
    AWAIT_WELCOME = "await welcome"
    READY = "ready"
    CLOSED = "closed"


CLIENT_TRANSITIONS: Final[dict[tuple[HandshakeState, int], HandshakeState]] = {
    (HandshakeState.AWAIT_CHALLENGE, Kind.CHALLENGE): HandshakeState.AWAIT_WELCOME,
    (HandshakeState.AWAIT_WELCOME, Kind.WELCOME): HandshakeState.READY,
}
SERVER_TRANSITIONS: Final[dict[tuple[HandshakeState, int], HandshakeState]] = {
    (HandshakeState.AWAIT_HELLO, Kind.HELLO): HandshakeState.AWAIT_PROOF,
    (HandshakeState.AWAIT_PROOF, Kind.PROOF): HandshakeState.READY,
}


@dataclass(frozen=True, slots=True)
class HandshakeStep:
    """What to do after a frame: send `reply` if there is one, then drop the link if `failed`."""

    reply: bytes | None = None
    failed: MagnetarError | None = None


class ClientHandshake:
    """The broker's side. Send `hello()`, feed each frame to `receive`, go on when READY."""

    def __init__(self, cluster_key: bytes, bookie_id: BookieId, nonce: bytes) -> None:
        _check_nonce(nonce)
        self._key = cluster_key
        self._bookie_id = bookie_id
        self._hello = _HELLO.pack(
            Kind.HELLO, 0, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION_MAX, FEATURES, nonce
        )
        self._transcript = b""
        self.state = HandshakeState.AWAIT_CHALLENGE
        self.version = 0
        self.features = 0

    def hello(self) -> bytes:
        """The first frame."""
        return self._hello

    def receive(self, frame: memoryview) -> HandshakeStep:
        """Take the bookie's next frame; after a failure the state is CLOSED."""
        try:
            kind, _ = peek(frame)
            if kind == Kind.ERROR:
                raise _refusal(frame)
            following = CLIENT_TRANSITIONS.get((self.state, kind))
            if following is None:
                raise InvalidFrame(f"frame kind {kind} while the link is in {self.state.value}")
            reply = None
            if kind == Kind.CHALLENGE:
                reply = self._challenged(frame)
            else:
                self._check_welcome(frame)
        except MagnetarError as error:
            self.state = HandshakeState.CLOSED
            return HandshakeStep(failed=error)
        self.state = following
        return HandshakeStep(reply)

    def _challenged(self, frame: memoryview) -> bytes:
        if len(frame) < _CHALLENGE.size:
            raise InvalidFrame("a challenge shorter than its header")
        _, _, self.version, self.features, _ = _CHALLENGE.unpack_from(frame)
        bookie_id = bytes(frame[_CHALLENGE.size:])
        if not PROTOCOL_VERSION_MIN <= self.version <= PROTOCOL_VERSION_MAX:
            raise InvalidFrame(f"the bookie chose version {self.version}, which was not offered")
        if bookie_id != self._bookie_id.encode():
            raise Unauthorized(f"bookie {self._bookie_id} was called and {bookie_id!r} answered")
        self._transcript = self._hello + bytes(frame)
        return _PROOF.pack(Kind.PROOF, 0, _mac(self._key, b"client", self._transcript))

    def _check_welcome(self, frame: memoryview) -> None:
        if len(frame) != _PROOF.size:
            raise InvalidFrame("a welcome of the wrong length")
        proof = _PROOF.unpack(frame)[2]
        if not hmac.compare_digest(proof, _mac(self._key, b"server", self._transcript)):
            raise Unauthorized(f"bookie {self._bookie_id} does not know the cluster key")


class ServerHandshake:
    """The bookie's side. Feed each frame to `receive` until READY; the first request follows."""

    def __init__(self, cluster_key: bytes, bookie_id: BookieId, nonce: bytes) -> None:
        _check_nonce(nonce)
        self._key = cluster_key
        self._bookie_id = bookie_id
        self._nonce = nonce
        self._transcript = b""
        self.state = HandshakeState.AWAIT_HELLO
        self.version = 0
        self.features = 0

    def receive(self, frame: memoryview) -> HandshakeStep:
        """Take the client's next frame; on failure send the reply (an ERROR), then drop."""
        try:
            kind, _ = peek(frame)
            following = SERVER_TRANSITIONS.get((self.state, kind))
            if following is None:
                raise InvalidFrame(f"frame kind {kind} while the link is in {self.state.value}")
            reply = self._greeted(frame) if kind == Kind.HELLO else self._proven(frame)
        except MagnetarError as error:
            self.state = HandshakeState.CLOSED
            unauthorized = isinstance(error, Unauthorized)
            status = Status.UNAUTHORIZED if unauthorized else Status.BAD_REQUEST
            return HandshakeStep(encode_error(status, str(error)), error)
        self.state = following
        return HandshakeStep(reply)

    def _greeted(self, frame: memoryview) -> bytes:
        if len(frame) != _HELLO.size:
            raise InvalidFrame("a hello of the wrong length")
        _, _, lowest, highest, features, _ = _HELLO.unpack(frame)
        self.version = min(highest, PROTOCOL_VERSION_MAX)
        if self.version < max(lowest, PROTOCOL_VERSION_MIN):
            raise InvalidFrame(
                f"no common version: offered {lowest}-{highest}, "
                f"known {PROTOCOL_VERSION_MIN}-{PROTOCOL_VERSION_MAX}"
            )
        self.features = features & FEATURES
        challenge = _CHALLENGE.pack(
            Kind.CHALLENGE, 0, self.version, self.features, self._nonce
        ) + self._bookie_id.encode()
        self._transcript = bytes(frame) + challenge
        return challenge

    def _proven(self, frame: memoryview) -> bytes:
        if len(frame) != _PROOF.size:
            raise InvalidFrame("a proof of the wrong length")
        proof = _PROOF.unpack(frame)[2]
        if not hmac.compare_digest(proof, _mac(self._key, b"client", self._transcript)):
            raise Unauthorized("the caller does not know the cluster key")
        return _PROOF.pack(Kind.WELCOME, 0, _mac(self._key, b"server", self._transcript))


def encode_error(status: Status, text: str) -> bytes:
    """Why the link is about to be dropped."""
    return _ERROR.pack(Kind.ERROR, 0, status) + text.encode()[:_MAX_TEXT_BYTES]


def _refusal(frame: memoryview) -> MagnetarError:
    if len(frame) < _ERROR.size:
        return InvalidFrame("an error frame shorter than its header")
    status = _ERROR.unpack_from(frame)[2]
    text = bytes(frame[_ERROR.size:][:_MAX_TEXT_BYTES]).decode(errors="replace")
    return Unauthorized(text) if status == Status.UNAUTHORIZED else ConnectionFailed(text)


def _mac(key: bytes, role: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, b"magnetar bookie link, " + role + b"\0" + transcript, "sha256")


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
