"""Everybody who watches topics at this broker, by namespace."""

from __future__ import annotations

from collections.abc import Iterable

from broker.conversation import NotServing
from broker.namespace_watch import NamespaceWatch, OnEnded, OnTopics, TopicWatcher
from broker.settings import BrokerLimits
from broker.topic_catalog import TopicCatalog
from magnetar.errors import InvalidArgument, InvalidTopicName
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName
from tenants.resolver import PolicyResolver


class TopicWatches:
    """Opens and closes watches; a namespace is read only while somebody watches it."""

    def __init__(
        self, catalog: TopicCatalog, resolver: PolicyResolver, clock: Clock, limits: BrokerLimits
    ) -> None:
        self._catalog = catalog
        self._resolver = resolver
        self._clock = clock
        self._limits = limits
        self._namespaces: dict[tuple[str, str], NamespaceWatch] = {}
        self._stopped = False
        self.watchers = 0

    async def open(
        self, namespace: str, pattern: str, topics: Iterable[str], told: OnTopics, ended: OnEnded
    ) -> TopicWatcher:
        """Tell of the topics of a namespace that match the pattern or are named.

        Raises NamespaceNotFound, InvalidArgument for names and patterns that cannot be used,
        NotServing when this broker has all the watchers it may have.
        """
        tenant, local = _namespace(namespace)
        names = self._checked(topics, tenant, local)
        if not pattern and not names:
            raise InvalidArgument("give a pattern or name topics to be told of")
        await self._resolver.resolve(TopicName(True, tenant, local, "any"))
        if self._stopped:
            raise NotServing("this broker is leaving the cluster; try another")
        if self.watchers >= self._limits.topic_watchers:
            raise NotServing("this broker has all the watchers of topics it may have; try another")
        watch = self._namespaces.get((tenant, local))
        if watch is None:
            watch = NamespaceWatch(self._catalog, tenant, local, self._clock, self._limits)
        watcher = TopicWatcher(told, ended, pattern, names, watch)
        watch.add(watcher)
        self._namespaces[tenant, local] = watch
        self.watchers += 1
        return watcher

    def close(self, watcher: TopicWatcher) -> None:
        """Tell it nothing more."""
        self.watchers -= 1
        watcher.watch.remove(watcher)
        if not watcher.watch.watchers:
            self._namespaces = {
                key: watch for key, watch in self._namespaces.items() if watch.watchers
            }

    def stop(self) -> None:
        """Send everybody to another broker."""
        self._stopped = True
        namespaces, self._namespaces = self._namespaces, {}
        for watch in namespaces.values():
            watch.stop()
            for watcher in list(watch.watchers):
                watcher.ended(NotServing("this broker is leaving the cluster; try another"))

    def _checked(self, topics: Iterable[str], tenant: str, namespace: str) -> frozenset[str]:
        names = frozenset(TopicName.parse(text) for text in topics)
        if len(names) > self._limits.topics_a_watch:
            raise InvalidArgument(f"name at most {self._limits.topics_a_watch} topics a watch")
        for name in names:
            if (name.tenant, name.namespace) != (tenant, namespace) or not name.persistent:
                raise InvalidArgument(f"{name} is no persistent topic of {tenant}/{namespace}")
        return frozenset(name.full for name in names)


def _namespace(text: str) -> tuple[str, str]:
    tenant, separator, local = text.partition("/")
    if not separator:
        raise InvalidTopicName(f"{text!r} is no namespace: write tenant/namespace")
    TopicName.parse(f"{tenant}/{local}/any")
    return tenant, local
