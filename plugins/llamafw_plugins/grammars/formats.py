"""Values of ``format``, as regular expressions for `pattern.to_rust`: exactly what the standard has, or less.

Dates and times are RFC 3339's, without what most libraries cannot read: leap seconds and the year 0.
"""

from __future__ import annotations

_LEAP = "(?:0[48]|[2468][048]|[13579][26])"  # years of a century, other than its first, that have a 29 February
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|(?:[0-9]{{2}}{_LEAP}|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

FORMATS = {
    "date": f"^{DATE}$",
    "time": f"^{TIME}$",
    "date-time": f"^{DATE}T{TIME}$",
}
NATIVE = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""Those that llguidance enforces itself."""
