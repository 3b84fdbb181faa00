"""Settings of gRPC channels and servers on which both sides must agree."""

from __future__ import annotations

from typing import Final

MAX_FRAME_BYTES: Final = 64 << 20
KEEPALIVE_TIME_MS: Final = 3_000
KEEPALIVE_TIMEOUT_MS: Final = 3_000

ChannelOptions = tuple[tuple[str, int], ...]

_COMMON: Final[ChannelOptions] = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_pings_without_data", 0),
)

CLIENT_OPTIONS: Final[ChannelOptions] = (
    *_COMMON,
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # The SDK has its own back-off and makes a new channel for each attempt.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

SERVER_OPTIONS: Final[ChannelOptions] = (
    *_COMMON,
    ("grpc.so_reuseport", 0),
    # Clients find a silent broker by pinging; more often than gRPC takes for friendly.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 3),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 4 * KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", 2 * KEEPALIVE_TIMEOUT_MS),
)
