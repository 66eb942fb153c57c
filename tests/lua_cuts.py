"""The commit script with one place changed: to show what that place is for."""

from __future__ import annotations

from featureflow.store.online.redis import scripts

CUTS = {
    "token": "if sub(record, 5, 36) ~= token then",
    "offset": "if sub(record, 37, 56) ~= from then",
    "dirty": "if sub(record, 57, 76) ~= CLEAN then",
    "length": "if length ~= expected then",
    "header": "call('GETRANGE', key, 0, header_bytes - 1) ~= sub(headers, header, header + header_bytes - 1)",
    "mark": "  call('SETRANGE', KEYS[i], 56, to)\n",
    "broken": "-- (4) move offsets, say when, and clear the mark\n",
}
NEVER = {"mark": "", "header": "false"}    # what takes a guard away; of a comparison that refuses: that it never does


def changed(**cuts: str) -> dict[str, str]:
    """The scripts, with each text of ``CUTS`` that is named replaced."""
    lua = scripts()
    for name, new in cuts.items():
        assert lua["commit"].count(CUTS[name]) == 1, f"the script no longer has the line of guard {name!r}"
        lua["commit"] = lua["commit"].replace(CUTS[name], new)
    return lua


def without(guard: str) -> dict[str, str]:
    """The scripts without this guard, and nothing else changed."""
    return changed(**{guard: NEVER.get(guard, "if false then")})
