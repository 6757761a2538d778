"""Signatures of thinking blocks, which clients send back with the blocks.

Nothing is verified. A block whose text is not shown carries it in its signature, so that the next turn has it.
"""

from __future__ import annotations

import base64
import hashlib

CARRIES_TEXT = "text."  # begins the signatures that carry the text of a block


def make_signature(thinking: str, *, is_omitted: bool) -> str:
    """Return the signature of a thinking block.

    Parameters
    ----------
    thinking : str
        The text of the block.
    is_omitted : bool
        Whether the client does not get the text.
    """
    raw = thinking.encode("utf-8", "surrogatepass")
    if is_omitted:
        return CARRIES_TEXT + base64.b64encode(raw).decode()
    return base64.b64encode(hashlib.sha256(raw).digest()).decode()


def read_thinking(thinking: str, signature: str) -> str:
    """Return the text of a thinking block that a client sends back; signatures of other servers carry none."""
    if thinking or not signature.startswith(CARRIES_TEXT):
        return thinking
    try:
        return base64.b64decode(signature.removeprefix(CARRIES_TEXT), validate=True).decode()
    except ValueError:
        return ""
