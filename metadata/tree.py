"""The tree of nodes as a plain data structure: rules without I/O, time or sessions' life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from magnetar.errors import AlreadyExists, BadVersion, InvalidArgument, NotEmpty, NotFound
from metadata.store import Guard, Record, check_path, check_value, parent_of

NO_SESSION: Final = 0
"""`Node.session_id` of a lasting node."""


@dataclass(slots=True)
class Node:
    """`session_id` names the session an ephemeral node lives with."""

    value: bytes
    version: int = 0
    session_id: int = NO_SESSION
    children: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What one operation did: the nodes written (None: removed), in order, and the paths whose
    watchers are to be told."""

    written: dict[str, Node | None] = field(default_factory=dict)
    touched: dict[str, None] = field(default_factory=dict)


class Tree:
    """All nodes, in memory."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {"/": Node(b"")}
        self._ephemerals: dict[int, dict[str, None]] = {}

    def load(self, nodes: Iterable[tuple[str, Node]]) -> None:
        """Fill an empty tree, parents in any order."""
        for path, node in nodes:
            self._nodes[path] = node
            if node.session_id != NO_SESSION:
                self._ephemerals.setdefault(node.session_id, {})[path] = None
        for path in self._nodes:
            if path != "/":
                self._nodes[parent_of(path)].children[path.rpartition("/")[2]] = None

    def __len__(self) -> int:
        return len(self._nodes)

    def nodes(self) -> Iterator[tuple[str, Node]]:
        yield from self._nodes.items()

    def sessions_with_ephemerals(self) -> list[int]:
        return sorted(self._ephemerals)

    def get(self, path: str) -> Record:
        node = self._node(path)
        return Record(node.value, node.version)

    def children(self, path: str) -> list[str]:
        return sorted(self._node(path).children)

    def create(self, path: str, value: bytes, session_id: int = NO_SESSION) -> Changes:
        """Raises AlreadyExists, and InvalidArgument below an ephemeral node."""
        check_path(path)
        check_value(path, value)
        if path in self._nodes:
            raise AlreadyExists(f"{path} exists already")
        missing = self._missing_parents(path)
        changes = Changes()
        for parent in missing:
            self._insert(parent, Node(b""), changes)
        self._insert(path, Node(value, 0, session_id), changes)
        if session_id != NO_SESSION:
            self._ephemerals.setdefault(session_id, {})[path] = None
        return changes

    def _missing_parents(self, path: str) -> list[str]:
        missing: list[str] = []
        parent = parent_of(path)
        while parent not in self._nodes:
            missing.append(parent)
            parent = parent_of(parent)
        if self._nodes[parent].session_id != NO_SESSION:
            raise InvalidArgument(f"{path} would be a child of the ephemeral node {parent}")
        missing.reverse()
        return missing

    def _insert(self, path: str, node: Node, changes: Changes) -> None:
        parent = parent_of(path)
        self._nodes[path] = node
        self._nodes[parent].children[path.rpartition("/")[2]] = None
        changes.written[path] = node
        changes.touched[path] = None
        changes.touched[parent] = None

    def put(
        self, path: str, value: bytes, version: int, guard: Guard | None = None
    ) -> Changes:
        """Raises NotFound, BadVersion."""
        check_value(path, value)
        check_version(version)
        if guard is not None:
            self._check_current(guard.path, self._node(guard.path), guard.version)
        node = self._node(path)
        self._check_current(path, node, version)
        node.value = value
        node.version += 1
        return Changes({path: node}, {path: None})

    def delete(
        self, path: str, version: int | None, guard: Guard | None = None
    ) -> Changes:
        """Raises NotFound, BadVersion, NotEmpty."""
        if guard is not None:
            self._check_current(guard.path, self._node(guard.path), guard.version)
        node = self._node(path)
        if path == "/":
            raise InvalidArgument("the root of the metadata cannot be deleted")
        if version is not None:
            check_version(version)
            self._check_current(path, node, version)
        if node.children:
            raise NotEmpty(f"{path} has children")
        changes = self._remove([path])
        if guard is not None:
            beside = self._node(guard.path)
            beside.value = b""
            beside.version += 1
            changes.written[guard.path] = beside
            changes.touched[guard.path] = None
        return changes

    def end_session(self, session_id: int) -> Changes:
        """Remove all that lived with the session."""
        return self._remove([*self._ephemerals.get(session_id, {})])

    def _remove(self, paths: list[str]) -> Changes:
        changes = Changes()
        for path in paths:
            node = self._nodes.pop(path)
            parent = parent_of(path)
            del self._nodes[parent].children[path.rpartition("/")[2]]
            if node.session_id != NO_SESSION:
                owned = self._ephemerals[node.session_id]
                del owned[path]
                if not owned:
                    del self._ephemerals[node.session_id]
            changes.written[path] = None
            changes.touched[path] = None
            changes.touched[parent] = None
        return changes

    def _node(self, path: str) -> Node:
        check_path(path)
        node = self._nodes.get(path)
        if node is None:
            raise NotFound(f"there is no {path}")
        return node

    def _check_current(self, path: str, node: Node, version: int) -> None:
        if node.version != version:
            raise BadVersion(f"{path} has version {node.version}, not {version}")


def check_version(version: int) -> None:
    """Raises InvalidArgument for what cannot be a version; there is no "any version"."""
    if version < 0:
        raise InvalidArgument(f"not a version: {version}")
