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

_HEX = "[0-9a-fA-F]"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

PATTERN_FORMATS = {
    **{
        f"uuid{version}": f"^{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}$"
        for version in range(1, 9)
    },
    "base64": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
    "base64url": "^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw](?:==)?|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]=?)?$",
    "jwt": "^[A-Za-z0-9_-]+[.][A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$",
    "ipv4network": f"^{_BYTE}(?:[.]{_BYTE}){{3}}/(?:3[0-2]|[12]?[0-9])$",
    "date": f"^{DATE}$",
    "time": f"^{TIME}$",
    "date-time": f"^{DATE}T{TIME}$",
}
"""Formats that are enforced by a pattern."""
UNRESTRICTED_FORMATS = frozenset({
    "float", "double", "decimal", "binary", "byte", "password", "path", "file-path", "directory-path", "textarea",
})  # fmt: skip
"""Formats that any string or number has; they only describe it."""
INTEGER_FORMATS = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
"""Formats that bound a number."""
NATIVE_FORMATS = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""Formats that llguidance enforces itself."""
MAX_LENGTHS = {"hostname": 253, "email": 254}
"""Numbers of characters that the standards allow and llguidance does not limit (RFC 1035 §2.3.4, RFC 5321 §4.5.3)."""
