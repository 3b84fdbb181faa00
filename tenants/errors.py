"""Errors of tenants and their policies.

    InvalidArgument
    └── PolicyError              a setting is unknown, out of bounds, or set at the wrong level
    TopicNotFound
    └── NamespaceNotFound        the topic's namespace does not exist, so neither can the topic
"""

from __future__ import annotations

from magnetar.errors import InvalidArgument, TopicNotFound


class PolicyError(InvalidArgument):
    """A policy cannot be used as written; `setting` is the name of the one to change."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"policy {setting}: {problem}")
        self.setting = setting
        self.problem = problem


class NamespaceNotFound(TopicNotFound):
    """The topic's namespace does not exist; create it, or correct the topic's name."""

    def __init__(self, tenant: str, namespace: str) -> None:
        super().__init__(f"there is no namespace {tenant}/{namespace}; create it first")
