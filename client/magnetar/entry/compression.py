"""Compression of payload sections; the libraries are optional and imported on first use."""

from __future__ import annotations

from typing import Any

from magnetar.entry.layout import MAX_UNCOMPRESSED_BYTES, Codec
from magnetar.errors import InvalidFrame, NotSupported

ZSTD_LEVEL = 3
LZ4_MAX_RATIO = 256
"""LZ4 cannot encode more output than this per input byte: larger claims are lies."""


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise NotSupported(f"this entry needs `pip install {package}`") from error


def compress(payload: bytes, codec: Codec) -> bytes:
    """The payload section as stored; raises NotSupported without the codec's library."""
    if codec is Codec.LZ4:
        return bytes(_library("lz4.block").compress(payload, store_size=False))
    if codec is Codec.ZSTD:
        return bytes(_library("zstandard").ZstdCompressor(level=ZSTD_LEVEL).compress(payload))
    return payload


def decompress(stored: memoryview, codec: Codec, uncompressed_bytes: int) -> bytes:
    """Exactly `uncompressed_bytes` bytes, or InvalidFrame; never allocates more than those."""
    if codec is Codec.NONE:
        return bytes(stored)
    if uncompressed_bytes > MAX_UNCOMPRESSED_BYTES:
        raise InvalidFrame(f"a payload of {uncompressed_bytes} bytes is above the limit")
    content = (_lz4 if codec is Codec.LZ4 else _zstd)(stored, uncompressed_bytes)
    if len(content) != uncompressed_bytes:
        raise InvalidFrame(f"{len(content)} bytes after decompression, not {uncompressed_bytes}")
    return content


def _lz4(stored: memoryview, uncompressed_bytes: int) -> bytes:
    block = _library("lz4.block")
    if uncompressed_bytes > (len(stored) + 1) * LZ4_MAX_RATIO:
        raise InvalidFrame("the payload cannot be as large as its header says")
    try:
        return bytes(block.decompress(stored, uncompressed_size=uncompressed_bytes))
    except (block.LZ4BlockError, ValueError) as error:
        raise InvalidFrame(f"cannot decompress: {error}") from error


def _zstd(stored: memoryview, uncompressed_bytes: int) -> bytes:
    zstandard = _library("zstandard")
    try:
        # The library believes the frame rather than its caller, so the frame is asked first.
        if zstandard.get_frame_parameters(stored).content_size != uncompressed_bytes:
            raise InvalidFrame("the compressed frame and the header disagree on its size")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_UNCOMPRESSED_BYTES)
        return bytes(decompressor.decompress(stored, max_output_size=uncompressed_bytes))
    except (zstandard.ZstdError, ValueError, MemoryError) as error:
        raise InvalidFrame(f"cannot decompress: {error}") from error
