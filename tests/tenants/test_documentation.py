"""The reference of policies is derived from the table, so it cannot go stale."""

from __future__ import annotations

from pathlib import Path

from tenants.policies import INT64_MAX, SETTINGS, Setting

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"


def row(setting: Setting) -> str:
    """The setting's line of the reference."""
    bounds = "true, false"
    if setting.minimum is not None and setting.maximum is not None:
        unbounded = setting.maximum >= INT64_MAX // 60_000
        bounds = f"from {setting.minimum:,}" + ("" if unbounded else f" to {setting.maximum:,}")
    default = str(setting.default).lower() if setting.type is not int else f"{setting.default:,}"
    if setting.choices:
        bounds = ", ".join(setting.choices)
    level = setting.narrowest.name.lower()
    return f"| `{setting.name}` | {default} | {bounds} | {level} | {setting.doc} |"


def test_the_reference_shows_every_setting_as_it_is() -> None:
    shown = [line for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]

    assert shown == [row(setting) for setting in SETTINGS]
