"""What producer and consumer processes answer, put together."""

from __future__ import annotations

import json
import subprocess
from typing import Final

from bench.percentiles import Figures
from demo.processes import Child, ProcessFailed

LOAD_LIMIT_S: Final = 300.0


def _answer_of(child: Child) -> Figures:
    """The JSON on the last line of a load's output; raises ProcessFailed."""
    try:
        child.process.wait(LOAD_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        child.kill()
        raise ProcessFailed(
            f"{child.name} was not done in {LOAD_LIMIT_S} s: {child.log_end()}"
        ) from error
    if child.process.returncode:
        raise ProcessFailed(
            f"{child.name} ended with {child.process.returncode}: {child.log_end()}"
        )
    figures: Figures = json.loads(child.log_end().splitlines()[-1])
    return figures


def answer(producer: Child, consumer: Child | None, messages: int) -> Figures:
    """The producer's figures, and `through_per_s`: messages a second from the first send until
    the last was both acknowledged and consumed; raises ProcessFailed."""
    figures = _answer_of(producer)
    if consumer is not None:
        ended_s = _answer_of(consumer)["ended_s"]
        if "began_s" in figures:
            consumed_per_s = messages / (ended_s - figures["began_s"])
            figures["through_per_s"] = round(min(figures["messages_per_s"], consumed_per_s))
    elif "messages_per_s" in figures:
        figures["through_per_s"] = figures["messages_per_s"]
    figures.pop("began_s", None)
    return figures
