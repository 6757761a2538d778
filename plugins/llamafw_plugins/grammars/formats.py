"""Values of the keyword ``format``, as regular expressions for `pattern.to_rust`.

Each expression matches what the standard allows, or less. Dates and times follow RFC 3339, without leap seconds and
the year 0, which most libraries cannot read.
"""

from __future__ import annotations

_LEAP = "(?:0[48]|[2468][048]|[13579][26])"  # last two digits of the leap years that are not divisible by 100
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|(?:[0-9]{{2}}{_LEAP}|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

PATTERN_FORMATS = {
    "date": f"^{DATE}$",
    "time": f"^{TIME}$",
    "date-time": f"^{DATE}T{TIME}$",
}
"""Formats that are enforced by a pattern."""
NATIVE_FORMATS = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""Formats that llguidance enforces itself."""
