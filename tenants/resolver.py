"""Which policies hold for a topic: those of the cluster, its namespace and its own, merged.

Each level is read once and kept while a watch stands guard over it. The watch is set before the
read, so a change either shows in what is read or drops what was kept; after a lost link every
watch fires, so nothing stale outlives a reconnect. A level that cannot be read is an error of
the resolution: policies are never guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from magnetar.errors import NotFound
from magnetar.topic import TopicName
from metadata.store import Cancel, MetadataStore
from metadata.tenants import NamespaceRepository, PolicyRepository
from tenants.errors import NamespaceNotFound, PolicyError
from tenants.policies import Level, PolicyValue, TopicPolicies, checked_from_store

MAX_KEPT_LEVELS: Final = 50_000
"""Levels kept at once; past it the one used longest ago is read anew when needed."""

Watch = Callable[[Callable[[], None]], Cancel]
Read = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True, eq=False)
class _Kept:
    """One level's stored policies, once read, and the watch over them."""

    cancel: Cancel | None = None
    stored: dict[str, PolicyValue] | None = None
    changes: int = 0
    """How often the watch called back."""


class PolicyResolver:
    """Answers for topics; ask again after `on_change` called back.

    `defaults` hold where no level says otherwise: a cluster of one process starts with quorums
    of one.
    """

    def __init__(
        self,
        store: MetadataStore,
        *,
        defaults: TopicPolicies | None = None,
        max_kept_levels: int = MAX_KEPT_LEVELS,
    ) -> None:
        self._namespaces = NamespaceRepository(store)
        self._policies = PolicyRepository(store)
        self._defaults = defaults if defaults is not None else TopicPolicies()
        self._max_kept_levels = max_kept_levels
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_callback = 0

    async def resolve(self, topic: TopicName) -> TopicPolicies:
        """Partitions follow their topic. Raises NamespaceNotFound, PolicyError for stored values
        that cannot be used, and what the metadata store raises when it does not answer."""
        changes = {
            **await self._cluster_level(),
            **await self._namespace_level(topic.tenant, topic.namespace),
            # Nothing is recorded of a topic that is not persistent.
            **(await self._topic_level(topic.base.full) if topic.persistent else {}),
        }
        try:
            return self._defaults.overlay(changes)
        except PolicyError as error:
            raise _of_level(error, f"topic {topic.full}") from None

    def on_change(self, callback: Callable[[], None]) -> Cancel:
        """Call back after a level that was resolved changed, or may have."""
        key = self._next_callback
        self._next_callback += 1
        self._callbacks[key] = callback

        def cancel() -> None:
            self._callbacks.pop(key, None)

        return cancel

    def stop(self) -> None:
        """End every watch; nothing is called back any more."""
        self._callbacks.clear()
        while self._kept:
            self._drop(next(iter(self._kept)))

    async def _cluster_level(self) -> dict[str, PolicyValue]:
        async def read() -> Mapping[str, Any]:
            try:
                return (await self._policies.get_cluster())[0].policies
            except NotFound:
                return {}

        return await self._level(Level.CLUSTER, "cluster", read, self._policies.watch_cluster)

    async def _namespace_level(self, tenant: str, name: str) -> dict[str, PolicyValue]:
        async def read() -> Mapping[str, Any]:
            try:
                return (await self._namespaces.get(tenant, name))[0].policies
            except NotFound:
                raise NamespaceNotFound(tenant, name) from None

        def watch(callback: Callable[[], None]) -> Cancel:
            return self._namespaces.watch(tenant, name, callback)

        return await self._level(Level.NAMESPACE, f"namespace {tenant}/{name}", read, watch)

    async def _topic_level(self, name: str) -> dict[str, PolicyValue]:
        async def read() -> Mapping[str, Any]:
            try:
                return (await self._policies.get_topic(name))[0].policies
            except NotFound:
                return {}

        def watch(callback: Callable[[], None]) -> Cancel:
            return self._policies.watch_topic(name, callback)

        return await self._level(Level.TOPIC, f"topic {name}", read, watch)

    async def _level(
        self, level: Level, shown: str, read: Read, watch: Watch
    ) -> dict[str, PolicyValue]:
        kept = self._kept.get(shown)
        if kept is None:
            kept = self._keep(shown, watch)
        self._kept.move_to_end(shown)
        if kept.stored is not None:
            return kept.stored
        seen = kept.changes
        try:
            stored = checked_from_store(await read(), level)
        except PolicyError as error:
            self._drop_if(shown, kept)
            raise _of_level(error, shown) from None
        except BaseException:
            self._drop_if(shown, kept)
            raise
        if kept.changes == seen:  # otherwise it may be older than the change: not kept
            kept.stored = stored
        return stored

    def _keep(self, shown: str, watch: Watch) -> _Kept:
        while len(self._kept) >= self._max_kept_levels:
            self._drop(next(iter(self._kept)))
        kept = self._kept[shown] = _Kept()

        def changed() -> None:
            # The watch stays: setting it anew may call back without a change, hence for ever.
            kept.changes += 1
            kept.stored = None
            if self._kept.get(shown) is kept:
                for callback in [*self._callbacks.values()]:
                    callback()

        kept.cancel = watch(changed)
        return kept

    def _drop_if(self, shown: str, kept: _Kept) -> None:
        """Drop it, unless it is gone already or another stands in its place."""
        if self._kept.get(shown) is kept:
            self._drop(shown)

    def _drop(self, shown: str) -> None:
        cancel = self._kept.pop(shown).cancel
        if cancel is not None:
            cancel()


def _of_level(error: PolicyError, shown: str) -> PolicyError:
    return PolicyError(error.setting, f"{error.problem} (stored for the {shown})")
