"""All of administration over one transport."""

from __future__ import annotations

from magnetar.admin.cluster import Bookies, Brokers
from magnetar.admin.messages import Messages
from magnetar.admin.schedule import Schedule
from magnetar.admin.subscriptions import Subscriptions
from magnetar.admin.tenants import Namespaces, Policies, Tenants
from magnetar.admin.topics import Topics
from magnetar.admin.transport import Transport


class Admin:
    """`client.admin`: a group of calls for each noun."""

    def __init__(self, transport: Transport) -> None:
        self.tenants = Tenants(transport)
        self.namespaces = Namespaces(transport)
        self.policies = Policies(transport)
        self.topics = Topics(transport)
        self.subscriptions = Subscriptions(transport)
        self.messages = Messages(transport)
        self.schedule = Schedule(transport)
        self.brokers = Brokers(transport)
        self.bookies = Bookies(transport)
