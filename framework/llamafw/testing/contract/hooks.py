"""Hooks of schemathesis for what an API document cannot express.

They keep token ids and slots in range, check streams, and list why the server may reject a request that is valid
according to the document.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

import schemathesis

from llamafw.testing.contract.streams import EVENTS, LINES, StreamChecker

N_TOKENS = 256  # not more than the tiny model has: it rejects larger ids, which are valid according to the document
N_SLOTS = 4
FIELDS_WITH_TOKENS = (
    "prompt",
    "tokens",
    "content",
    "context",
    "input",
    "inputs",
    "input_prefix",
    "input_suffix",
    "logit_bias",
)
FIELDS_WITH_TASKS = ("input_type", "prompt_name", "task")
REASONS = (
    r"(is|are) not supported",
    r"needs? a multimodal model",
    r"^the message has no content",  # only some roles may lack it; OpenAPI 3.0 has no conditions
    r"^top_logprobs needs logprobs",
    r"^the part has no text",
    r"^the (block|tool) has no ",  # each type of block needs other members
    r"^(tool_choice|thinking) of the type \w+ needs",
    r"^a bias must be a number or false",  # second item of a pair; OpenAPI 3.0 has no tuples
    r"^the first item of a pair must be a token id",
    r"is not a token id",  # name of a member; OpenAPI 3.0 has no patterns for names
    r"^best_of must be (at least|equal to) n|cannot be combined with",  # depends on two fields
    r"^one request can have at most \d+ choices",  # n times the number of prompts has a limit
    r"^with \d+ choices, logit_bias can have",  # that number times the number of biases has a limit
    r"^the (strings|texts) of (stop|logit_bias) must have at most",  # the total length has a limit
    r"^the server sets the variable",
    r"^the chat template drops",  # the result of a tool without a call
    r"^continue_final_message (needs|and)|^a message with tool calls cannot be continued|no tags for reasoning",
    r"^path parameter id_slot must be at least 0",  # of a link to the slot of a response without tokens
    r"^priority must be at least -?\d+ for this API key",
    r"^embeddings of this model have|^(adapter|control vector|slot) \d+ does not exist|^the adapter cannot be loaded",
    r"^Invalid filename|^Unable to restore slot",
    r"^the (text|prompt) has (no|\d+) tokens",
    r"^\d+ tokens are too few for a text|^the query has \d+ tokens, and leaves no room",
    r"^this model has no prompt for the task|^\w+ embeddings need a scale",
    r"(is|be) (provided|specified)",  # one of two fields is required; the schema for that would be unreadable
    r"^the (grammar|schema) (is|has)|^response_format of the type json_schema needs",  # a language of its own
    r"cannot be enforced",
    r"is not a keyword of JSON Schema|^('\S+'|a schema) must be .*, not ",  # the schema in a request is invalid
    r"^tool_choice needs at least one tool|^the tool .* is not in tools|^two tools have the same name",
    r"^the arguments are not",
    r"^the previous response .* does not exist|^the item .* does not exist",  # random ids
    r"^no function call with the call_id",  # depends on an earlier item
    r"^background: true needs|^only responses that were created with background|cannot be streamed, because",
    r"^(tools|tool_choice)\..* is required",  # depends on the type
    r"^(documents|texts)\.\d+(\.[\s\S]* is required| has no member of rank_fields)",  # depends on another field
    r"^starting_after needs|^the response has no input item|^the keys of metadata",
)
"""Messages with which the server may reject a request that is valid according to the document."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Bring token ids and slots into range.

    Values that the document forbids stay as they are.
    """
    if isinstance(case.body, dict):
        case.body = {
            name: with_known_tokens(value) if name in FIELDS_WITH_TOKENS else value for name, value in case.body.items()
        }
        if isinstance(case.body.get("id_slot"), int) and 0 <= case.body["id_slot"] < 2**31:
            case.body["id_slot"] %= N_SLOTS
        if case.meta is not None and case.meta.generation.mode.is_positive:
            avoid_rejection(case.operation.definition.raw, case.body)
    path = case.path_parameters or {}
    if isinstance(path.get("id_slot"), int) and 0 <= path["id_slot"] < 2**31:
        path["id_slot"] %= N_SLOTS


def avoid_rejection(operation: dict[str, Any], body: dict[str, Any]) -> None:
    """Change a valid body to get fewer rejections and more streams.

    OpenAPI 3.0 cannot express conditions between fields, so most random bodies break one. A hash of the body decides
    what is changed. Equal runs therefore send equal requests.
    """
    digest = zlib.crc32(json.dumps(body, sort_keys=True, default=str).encode())
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}) and digest % 3 == 0:
        body["stream"] = True
    for message in body.get("messages") or ():
        if message.get("content") is None and digest % 8:  # only some roles may lack it
            message["content"] = "Hello"
        if isinstance(message.get("content"), list):
            for block in message["content"]:
                if isinstance(block, dict) and block.get("type") == "text" and block.get("text") is None and digest % 8:
                    block["text"] = "Hello"
    if "embeddings" in operation.get("tags", ()):
        for fields in (body, body.get("parameters")):  # a model has prompts for few tasks
            if isinstance(fields, dict) and digest % 8:
                fields |= {name: "query" for name in FIELDS_WITH_TASKS if fields.get(name) is not None}
    for one, other in (("content", "input"), ("documents", "texts"), ("texts", "inputs")):
        if body.get(one) is not None and body.get(other) is not None and digest % 8:
            del body[other]
    if isinstance(body.get("priority"), int) and digest % 8:  # a key has a smallest one, 0 by default
        body["priority"] = abs(body["priority"])
    for field in ("lora", "control_vectors"):  # few ids exist
        if body.get(field) and digest % 8:
            body[field] = []
    if isinstance(body.get("filename"), str) and digest % 2:
        body["filename"] = "fuzz.bin"
    if operation.get("operationId", "").startswith(("createResponse", "countResponseTokens")) and digest % 8:
        for field in ("previous_response_id", "conversation", "moderation", "prompt"):  # random ones are refused
            body.pop(field, None)
        for tool in body.get("tools") or ():  # only functions are supported
            tool |= {"type": "function", "name": tool.get("name", "f")}
        if isinstance(body.get("tool_choice"), dict):
            body["tool_choice"] = "auto"
        if not isinstance(body.get("input"), str):  # outputs of calls and references need other items
            items = [item for item in body.get("input") or () if item.get("type") in ("function_call", "reasoning")]
            body["input"] = [*items, {"role": "user", "content": "Hello"}]


def with_known_tokens(value: Any) -> Any:
    """Return ``value`` with every token id in it brought into the model's range."""
    if isinstance(value, list):
        return [with_known_tokens(part) for part in value]
    if isinstance(value, dict):
        return {
            known_token_name(name): with_known_tokens(part) if name == "prompt_string" else part
            for name, part in value.items()
        }
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value % N_TOKENS
    return value


def known_token_name(name: Any) -> Any:
    """Return the name of a member of an object.

    A number is a token id and is brought into range.
    """
    return str(int(name) % N_TOKENS) if isinstance(name, str) and re.fullmatch(r"\d{1,10}", name) else name


@schemathesis.check
def stream_conformance(context: Any, response: Any, case: Any) -> None:
    """Check the items of a stream against their schema, and their order."""
    media_type = (response.headers.get("content-type") or [""])[0].partition(";")[0]
    if media_type in (EVENTS, LINES):
        checker = CHECKERS.setdefault(id(case.operation.schema), StreamChecker(case.operation.schema.raw_schema))
        problems = list(checker.problems(response.content, case.operation.definition.raw, case.body, media_type))
        assert not problems, "; ".join(problems)


CHECKERS: dict[int, StreamChecker] = {}
"""One per document, by the id of schemathesis's object for it."""


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Ignore rejections of valid requests that have one of the `REASONS`."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    return not any(re.search(reason, message) for message in error_messages(response.content) for reason in REASONS)


def error_messages(content: bytes) -> Iterator[str]:
    """Yield the texts in an error response, one of which is the message, without the field before it.

    Plugins have formats of their own for errors, and an API document does not say which member has the message.
    """
    try:
        body = json.loads(content)
    except ValueError:  # not JSON
        body = content.decode(errors="replace")
    for text in _texts(body):
        yield re.sub(r"^[\w.]+: ", "", text)


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
