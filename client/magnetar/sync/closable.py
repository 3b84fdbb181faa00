"""What is closed by `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closable(ABC):
    """`with` gives the thing itself, and closes it at the end."""

    @abstractmethod
    def close(self) -> None:
        """End it; closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
