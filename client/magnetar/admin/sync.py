"""`client.admin` of `magnetar.sync`: the same calls, each blocking until it has its answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from magnetar.admin import admin as asynchronous
from magnetar.admin.cluster import Bookies as AsyncBookies
from magnetar.admin.cluster import Brokers as AsyncBrokers
from magnetar.admin.messages import Messages as AsyncMessages
from magnetar.admin.schedule import Schedule as AsyncSchedule
from magnetar.admin.subscriptions import Subscriptions as AsyncSubscriptions
from magnetar.admin.tenants import Namespaces as AsyncNamespaces
from magnetar.admin.tenants import Policies as AsyncPolicies
from magnetar.admin.tenants import Tenants as AsyncTenants
from magnetar.admin.topics import Topics as AsyncTopics

Group = TypeVar("Group")
Given = ParamSpec("Given")
Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs in the loop's thread and waits."""


class _Blocking(Generic[Group]):
    def __init__(self, group: Group, run: Run) -> None:
        self._group = group
        self._run = run


def _blocking(
    method: Callable[Concatenate[Any, Given], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[_Blocking[Any], Given], Result]:
    def call(self: _Blocking[Any], /, *given: Given.args, **named: Given.kwargs) -> Result:
        result: Result = self._run(method(self._group, *given, **named))
        return result

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


class Tenants(_Blocking[AsyncTenants]):
    """`client.admin.tenants`."""

    create = _blocking(AsyncTenants.create)
    list = _blocking(AsyncTenants.list)
    get = _blocking(AsyncTenants.get)
    delete = _blocking(AsyncTenants.delete)


class Namespaces(_Blocking[AsyncNamespaces]):
    """`client.admin.namespaces`."""

    create = _blocking(AsyncNamespaces.create)
    list = _blocking(AsyncNamespaces.list)
    get = _blocking(AsyncNamespaces.get)
    delete = _blocking(AsyncNamespaces.delete)


class Policies(_Blocking[AsyncPolicies]):
    """`client.admin.policies`."""

    set = _blocking(AsyncPolicies.set)
    get = _blocking(AsyncPolicies.get)
    effective = _blocking(AsyncPolicies.effective)


class Topics(_Blocking[AsyncTopics]):
    """`client.admin.topics`."""

    create = _blocking(AsyncTopics.create)
    grow = _blocking(AsyncTopics.grow)
    list = _blocking(AsyncTopics.list)
    get = _blocking(AsyncTopics.get)
    stats = _blocking(AsyncTopics.stats)
    terminate = _blocking(AsyncTopics.terminate)
    truncate = _blocking(AsyncTopics.truncate)
    delete = _blocking(AsyncTopics.delete)
    why_space = _blocking(AsyncTopics.why_space)


class Subscriptions(_Blocking[AsyncSubscriptions]):
    """`client.admin.subscriptions`."""

    create = _blocking(AsyncSubscriptions.create)
    list = _blocking(AsyncSubscriptions.list)
    stats = _blocking(AsyncSubscriptions.stats)
    delete = _blocking(AsyncSubscriptions.delete)
    seek = _blocking(AsyncSubscriptions.seek)
    skip = _blocking(AsyncSubscriptions.skip)
    clear_backlog = _blocking(AsyncSubscriptions.clear_backlog)
    expire = _blocking(AsyncSubscriptions.expire)
    peek = _blocking(AsyncSubscriptions.peek)


class Messages(_Blocking[AsyncMessages]):
    """`client.admin.messages`."""

    get = _blocking(AsyncMessages.get)
    last_ids = _blocking(AsyncMessages.last_ids)


class Schedule(_Blocking[AsyncSchedule]):
    """`client.admin.schedule`."""

    list = _blocking(AsyncSchedule.list)
    count = _blocking(AsyncSchedule.count)
    cancel = _blocking(AsyncSchedule.cancel)
    move = _blocking(AsyncSchedule.move)


class Brokers(_Blocking[AsyncBrokers]):
    """`client.admin.brokers`."""

    list = _blocking(AsyncBrokers.list)


class Bookies(_Blocking[AsyncBookies]):
    """`client.admin.bookies`."""

    list = _blocking(AsyncBookies.list)


class Admin:
    """See the asynchronous `magnetar.admin.admin.Admin`."""

    def __init__(self, admin: asynchronous.Admin, run: Run) -> None:
        self.tenants = Tenants(admin.tenants, run)
        self.namespaces = Namespaces(admin.namespaces, run)
        self.policies = Policies(admin.policies, run)
        self.topics = Topics(admin.topics, run)
        self.subscriptions = Subscriptions(admin.subscriptions, run)
        self.messages = Messages(admin.messages, run)
        self.schedule = Schedule(admin.schedule, run)
        self.brokers = Brokers(admin.brokers, run)
        self.bookies = Bookies(admin.bookies, run)
