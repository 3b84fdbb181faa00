"""What a gRPC method of administration is to the service: two messages and the work between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Fill = Callable[[Any, Any], Awaitable[None]]
"""Does what the first message asks for and fills the second; raises what went wrong."""

Calls = Mapping[str, tuple[type[Any], type[Any], Fill]]
"""Method name to the types of its request and its reply, and the work."""
