"""Opening a link: who does not know the cluster key gets no further."""

from __future__ import annotations

from ledger.handshake import NONCE_BYTES, ClientHandshake, HandshakeState, ServerHandshake
from ledger.wire import ReadLacRequest, Status, encode_read_lac
from magnetar.errors import ConnectionFailed, InvalidFrame, Unauthorized
from magnetar.ids import BookieId, LedgerId

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
K1, K2 = BookieId("k1"), BookieId("k2")


def nonce(letter: bytes) -> bytes:
    return letter * NONCE_BYTES


def pair(
    client_key: bytes = KEY, server_key: bytes = KEY, called: BookieId = K1, answers: BookieId = K1
) -> tuple[ClientHandshake, ServerHandshake]:
    return (
        ClientHandshake(client_key, called, nonce(b"c")),
        ServerHandshake(server_key, answers, nonce(b"s")),
    )


def shake(client: ClientHandshake, server: ServerHandshake) -> list[bytes]:
    """Exchange frames until one side has nothing to say; the frames, in order."""
    sent = [client.hello()]
    sides: list[ClientHandshake | ServerHandshake] = [server, client]
    while True:
        step = sides[0].receive(memoryview(sent[-1]))
        if step.reply is None:
            return sent
        sent.append(step.reply)
        sides.reverse()


def test_both_sides_are_ready_and_agree() -> None:
    client, server = pair()
    shake(client, server)
    assert client.state is server.state is HandshakeState.READY
    assert client.version == server.version == 1


def test_a_client_without_the_key_is_refused() -> None:
    client, server = pair(client_key=OTHER_KEY)
    frames = shake(client, server)
    assert server.state is HandshakeState.CLOSED
    assert client.state is HandshakeState.CLOSED
    assert frames[-1][9] == Status.UNAUTHORIZED


def test_a_bookie_without_the_key_is_refused() -> None:
    client, server = pair()
    challenge = server.receive(memoryview(client.hello())).reply
    assert challenge is not None
    client.receive(memoryview(challenge))
    false_welcome = b"\x04" + bytes(8) + bytes(32)
    step = client.receive(memoryview(false_welcome))
    assert isinstance(step.failed, Unauthorized)
    assert client.state is HandshakeState.CLOSED


def test_another_bookie_at_the_address_is_refused() -> None:
    client, server = pair(called=K1, answers=K2)
    shake(client, server)
    assert client.state is HandshakeState.CLOSED
    assert server.state is not HandshakeState.READY


def test_a_recorded_proof_does_not_open_another_link() -> None:
    client, server = pair()
    hello, _, proof, _ = shake(client, server)
    second = ServerHandshake(KEY, K1, nonce(b"t"))
    second.receive(memoryview(hello))
    assert isinstance(second.receive(memoryview(proof)).failed, Unauthorized)


def test_a_reflected_proof_is_no_welcome() -> None:
    client, server = pair()
    challenge = server.receive(memoryview(client.hello())).reply
    assert challenge is not None
    proof = client.receive(memoryview(challenge)).reply
    assert proof is not None
    reflected = b"\x04" + proof[1:]
    assert isinstance(client.receive(memoryview(reflected)).failed, Unauthorized)


def test_a_changed_hello_breaks_the_proof() -> None:
    client, server = pair()
    hello = bytearray(client.hello())
    hello[20] ^= 1  # a feature bit
    challenge = server.receive(memoryview(bytes(hello))).reply
    assert challenge is not None
    proof = client.receive(memoryview(challenge)).reply
    assert proof is not None
    assert isinstance(server.receive(memoryview(proof)).failed, Unauthorized)


def test_no_request_passes_before_the_proof() -> None:
    _, server = pair()
    request = encode_read_lac(1, ReadLacRequest(LedgerId(1)))
    step = server.receive(memoryview(request))
    assert isinstance(step.failed, InvalidFrame)
    assert server.state is HandshakeState.CLOSED


def test_versions_without_overlap_are_refused_in_words() -> None:
    client, server = pair()
    hello = bytearray(client.hello())
    hello[9:13] = (99).to_bytes(2, "big") + (99).to_bytes(2, "big")
    step = server.receive(memoryview(bytes(hello)))
    assert step.reply is not None
    refused = client.receive(memoryview(step.reply))
    assert isinstance(refused.failed, ConnectionFailed)
    assert "no common version" in str(refused.failed)
