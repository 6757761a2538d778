"""What schemathesis cannot know from the document: how many tokens the model has, and what this server does not do."""
from __future__ import annotations

import json
import re
from typing import Any

import schemathesis

N_TOKENS = 256  # no more than the tiny model has; ids beyond are valid JSON that this model cannot take
N_SLOTS = 4
TOKENS = ("prompt", "tokens", "content", "input", "logit_bias")
REASONS = (
    r"(is|are) not supported",  # D-23: 400 until there are tools
    r"^the message has no content",  # which only some roles may lack; OpenAPI 3.0 has no conditions
    r"^top_logprobs needs logprobs",
    r"^the part has no text",
    r"^there is no part of type",  # plugins may add types
    r"^a bias is a number or false",  # the second of a pair; OpenAPI 3.0 has no tuples
    r"^the first item of a pair is a token id",
    r"is no token id",  # nor patterns for the names of members
    r"^best_of is \d+, and n|^more answers than n,",  # two fields together
    r"^one call gives at most",  # n times the number of prompts
    r"^\d+ answers can have at most",  # the same times the biases
    r"^the (strings|texts) of (stop|logit_bias) have more than",  # all of them together
    r"^the variable \w+ is set by the server",
    r"^embeddings of this model have|^there is no (adapter|slot)|^Invalid filename|^Unable to restore slot",
    r"^the (text|prompt) has (no|\d+) tokens",
    r"(is|be) (provided|specified)",  # one of two fields; OpenAPI 3.0 could say so, but no client could read it
    r"^the (grammar|schema|response format) (is|has)",  # languages of their own
    r"cannot be enforced|^only references within the schema|^nothing is valid against|is a number$",
    r"^tool_choice needs tools|^there is no tool|^two tools have the name|^the arguments are no JSON",
    r"^a call is required, so",
)
"""Why a request may be refused although the document allows it."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Fold tokens and slots into those there are. Values that the document refuses stay as they are."""
    if isinstance(case.body, dict):
        case.body = {name: fold(value) if name in TOKENS else value for name, value in case.body.items()}
        if isinstance(case.body.get("id_slot"), int) and 0 <= case.body["id_slot"] < 2**31:
            case.body["id_slot"] %= N_SLOTS


def fold(value: Any) -> Any:
    """Return ``value`` with every token id in it made one of the model's."""
    if isinstance(value, list):
        return [fold(part) for part in value]
    if isinstance(value, dict):
        return {fold_name(name): part for name, part in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value % N_TOKENS
    return value


def fold_name(name: Any) -> Any:
    """Return the name of a member, which is a token id if it is a number."""
    return str(int(name) % N_TOKENS) if isinstance(name, str) and re.fullmatch(r"\d{1,10}", name) else name


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Drop refusals of valid requests that have one of the `REASONS`."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    message = json.loads(response.content)["error"]["message"]
    return not any(re.search(reason, message) for reason in REASONS)
