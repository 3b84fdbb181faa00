"""The table of settings: defaults, bounds, levels, and what an error says."""

from __future__ import annotations

import pytest

from magnetar.errors import InvalidArgument
from tenants.errors import PolicyError
from tenants.policies import (
    SETTINGS,
    UNLIMITED,
    BacklogQuotaPolicy,
    Level,
    TopicPolicies,
    checked_from_store,
    checked_to_store,
    parse_changes,
)


def test_defaults_are_three_copies_two_acknowledged() -> None:
    policies = TopicPolicies()

    assert (policies.ensemble_size, policies.write_quorum, policies.ack_quorum) == (3, 3, 2)
    assert policies.deduplication
    assert policies.auto_create_topics


def test_every_setting_is_explained_and_its_default_is_within_bounds() -> None:
    for setting in SETTINGS:
        assert setting.doc.endswith(".")
        assert setting.check(setting.default, Level.CLUSTER) == setting.default


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.type is int], ids=lambda s: s.name)
def test_bounds_are_inclusive_and_named_in_the_error(setting) -> None:  # type: ignore[no-untyped-def]
    for good in (setting.minimum, setting.maximum):
        assert setting.check(good, setting.narrowest) == good

    for bad in (setting.minimum - 1, setting.maximum + 1):
        with pytest.raises(PolicyError, match=setting.name) as caught:
            setting.check(bad, setting.narrowest)
        assert str(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ack_quorum", True), ("ack_quorum", "2"), ("ack_quorum", 2.0), ("ack_quorum", None),
        ("deduplication", 1), ("deduplication", "true"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(PolicyError) as caught:
        checked_to_store({name: value}, Level.NAMESPACE)

    assert caught.value.setting == name
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, InvalidArgument)


def test_an_unknown_setting_is_refused_when_set_and_passed_over_when_read() -> None:
    with pytest.raises(PolicyError, match="ack_qourum"):
        checked_to_store({"ack_qourum": 2}, Level.NAMESPACE)

    read = checked_from_store({"of_a_newer_version": [1], "ack_quorum": 1}, Level.NAMESPACE)

    assert read == {"ack_quorum": 1}


def test_a_setting_of_namespaces_is_refused_for_a_topic() -> None:
    with pytest.raises(PolicyError, match="auto_create_topics") as caught:
        checked_to_store({"auto_create_topics": False}, Level.TOPIC)

    assert "namespace" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"ensemble_size": 2}, "write_quorum"),
        ({"write_quorum": 1}, "ack_quorum"),
        ({"ack_quorum": 4}, "ack_quorum"),
    ],
)
def test_quorums_that_do_not_fit_together_are_refused(
    changes: dict[str, int], setting: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        TopicPolicies().overlay(changes)

    assert caught.value.setting == setting


def test_overlay_changes_only_what_is_named() -> None:
    policies = TopicPolicies(retention_minutes=60).overlay({"retention_bytes": UNLIMITED})

    assert policies.retention_minutes == 60
    assert policies.retention_bytes == UNLIMITED


def test_changes_are_read_as_people_type_them() -> None:
    typed = ["ack_quorum=1", " deduplication = False", "retention_bytes=-1", "ensemble_size="]

    assert parse_changes(typed) == {
        "ack_quorum": 1, "deduplication": False, "retention_bytes": -1, "ensemble_size": None,
    }


@pytest.mark.parametrize("typed", ["ack_quorum", "=3", "ack_quorum=two", "ack_quorum=1.5"])
def test_what_cannot_be_read_is_refused(typed: str) -> None:
    with pytest.raises(PolicyError):
        parse_changes([typed])


def test_a_choice_is_one_of_the_words_that_the_error_lists() -> None:
    quota = {"backlog_quota_policy": "evict_oldest"}

    stored = checked_to_store(quota, Level.TOPIC)
    policies = TopicPolicies().overlay(quota)

    assert stored == quota
    assert policies.backlog_quota_policy is BacklogQuotaPolicy.EVICT_OLDEST
    with pytest.raises(PolicyError, match="producer_hold or producer_reject or evict_oldest"):
        checked_to_store({"backlog_quota_policy": "drop"}, Level.TOPIC)
    with pytest.raises(PolicyError, match="backlog_quota_policy"):
        checked_from_store({"backlog_quota_policy": 1}, Level.TOPIC)


def test_a_choice_is_typed_as_it_is_written() -> None:
    assert parse_changes(["backlog_quota_policy=Evict_Oldest", "dead_letter_expired=true"]) == {
        "backlog_quota_policy": "evict_oldest", "dead_letter_expired": True,
    }
