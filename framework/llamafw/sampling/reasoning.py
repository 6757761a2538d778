"""Follows the reasoning at the start of a response: counts its tokens, limits it, and keeps the grammar out of it."""

from __future__ import annotations

import codecs
from typing import Literal

import numpy as np

from llamafw.interfaces import Tokenizer
from llamafw.sampling.constraint import Constraint
from llamafw.types import Floats, Reasoning, ReasoningTags

State = Literal["before", "inside", "ending", "gap", "answer"]
"""``before``: nothing was written; ``ending``: the end is forced; ``gap``: white space between reasoning and answer."""

_MAX_GAP = 8  # tokens of white space before the answer
_MAX_OVER = 8  # tokens beyond the budget that may complete a character or an end tag


class ReasoningConstraint:
    """The reasoning of one response, and the grammar of the answer after it.

    Parameters
    ----------
    reasoning : Reasoning
        How the model reasons.
    tokenizer : Tokenizer
        Turns tokens into text.
    constraint : Constraint, optional
        The grammar of the answer, in its initial state.
    """

    def __init__(self, reasoning: Reasoning, tokenizer: Tokenizer, constraint: Constraint | None) -> None:
        tags = reasoning.tags
        self.n_tokens = 0  # tokens of reasoning so far, without those of the tags
        self._reasoning, self._tokenizer, self._constraint = reasoning, tokenizer, constraint
        self._start, self._end = tags.start.strip().encode(), tags.end.strip().encode()
        self._text = b""  # in state `before`: all text; in `inside`: the last bytes, which may begin the end tag
        self._n_gap = self._n_partial = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._forced: list[int] = []
        self._state: State = "before"
        if reasoning.opened:
            self._enter()

    @property
    def ended(self) -> bool:
        """Whether the response is complete."""
        return self._state == "answer" and self._constraint is not None and self._constraint.ended

    @property
    def free(self) -> bool:
        """Whether any token may be next."""
        return self._constraint is None and self._state != "ending"

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if it is allowed; otherwise return False and change nothing."""
        if self._state == "answer":
            return self._constraint is None or self._constraint.accept(token)
        if self._state == "ending":
            return self._accept_forced(token)
        piece = self._tokenizer.piece(token, special=True)
        if self._state == "before":
            return self._accept_before(token, piece)
        if self._state == "inside":
            return self._accept_inside(token, piece)
        return self._accept_gap(token, piece)

    def mask(self, logits: Floats) -> None:
        """Set the ``logits``, ``(n_vocab,)`` float32, of all tokens that are not allowed next to −inf."""
        if self._state == "answer" and self._constraint is not None:
            self._constraint.mask(logits)
        elif self._state == "inside":
            self._mask_inside(logits)
        elif self._state != "answer":
            self._mask_edges(logits)

    def _mask_edges(self, logits: Floats) -> None:
        """Mask where reasoning begins, is ended, or has ended: some tokens are allowed besides those of the grammar."""
        if self._state == "ending":
            allowed = self._forced[:1]
        else:
            allowed = self._allowed_before() if self._state == "before" else self._allowed_gap()

        kept = logits[allowed].copy()
        if self._state == "ending" or (self._state == "before" and self._text.strip()):
            logits[:] = -np.inf
        elif self._constraint is not None:
            self._constraint.mask(logits)
        logits[allowed] = np.maximum(logits[allowed], kept)

    # --- states

    def _enter(self) -> None:
        """Begin the reasoning."""
        self._state, self._text = "inside", b""
        if self._reasoning.budget == 0:
            self._force_end()

    def _force_end(self) -> None:
        tags = self._reasoning.tags
        self._force(self._reasoning.message + tags.end + tags.answer)

    def _force(self, text: str) -> None:
        self._state, self._forced = "ending", self._tokenizer.encode(text, parse_special=True)

    def _accept_forced(self, token: int) -> bool:
        if token != self._forced[0]:
            return False
        del self._forced[0]
        if not self._forced:
            self._state = "gap"
        return True

    def _accept_before(self, token: int, piece: bytes) -> bool:
        """Accept a token at the start of the response: of the start tag, or else of the answer."""
        text = (self._text + piece).lstrip()
        if text.startswith(self._start):
            self._enter()
            return True
        if text and self._start.startswith(text):
            self._text += piece
            return True
        if self._constraint is None:
            self._text += piece
            self._state = "answer" if text else "before"
            return True
        if self._text.strip() or not self._constraint.accept(token):
            return False
        self._state = "answer"
        return True

    def _allowed_before(self) -> list[int]:
        """Return tokens that may be next in the start tag: that of the tokenizer, or else any."""
        rest = self._start[len(self._text.lstrip()) :]
        first = self._tokenizer.encode(rest.decode("utf-8", "ignore"), parse_special=True)[:1]
        if all(rest.startswith(self._piece_in_tag(token)) for token in first):
            return first
        pieces = ((token, self._piece_in_tag(token)) for token in range(self._tokenizer.n_vocab))
        return [token for token, piece in pieces if piece and rest.startswith(piece)]

    def _piece_in_tag(self, token: int) -> bytes:
        """Return the bytes of a token in the start tag, before which white space may be."""
        piece = self._tokenizer.piece(token, special=True)
        return piece if self._text.strip() else piece.lstrip()

    def _accept_inside(self, token: int, piece: bytes) -> bool:
        if self._constraint is not None and token in self._tokenizer.eog and self._end not in self._text + piece:
            return False
        text = self._text + piece
        found = text.find(self._end)
        if found >= 0:
            rest = text[found + len(self._end) :]
            if self._constraint is not None and rest.strip():
                return False  # the grammar could not see the text after the tag
            self.n_tokens -= self._n_partial
            self._state = "answer" if rest.strip() else "gap"
            if self._constraint is not None and self._reasoning.tags.answer:
                self._force(self._reasoning.tags.answer)  # the grammar describes what follows it
            return True

        self.n_tokens += 1
        self._text = _beginning_of(self._end, text)
        self._n_partial = self._n_partial + 1 if self._text else 0
        self._utf8.decode(piece)
        if self._is_over_budget():
            self._force_end()
        return True

    def _is_over_budget(self) -> bool:
        """Return whether the end must be forced now: not within a character, and not within an end tag."""
        n_over = self.n_tokens - self._reasoning.budget
        if self._reasoning.budget < 0 or n_over < 0:
            return False
        return n_over > _MAX_OVER or not (self._text or self._utf8.getstate()[0])

    def _mask_inside(self, logits: Floats) -> None:
        """Forbid tokens that end the response, or that go on after the end tag."""
        for token in self._tokenizer.eog:
            logits[token] = -np.inf
        for token in np.flatnonzero(logits > -np.inf).tolist():
            text = self._text + self._tokenizer.piece(token, special=True)
            found = text.find(self._end)
            if found >= 0 and text[found + len(self._end) :].strip():
                logits[token] = -np.inf

    def _accept_gap(self, token: int, piece: bytes) -> bool:
        if self._constraint is None:
            self._state = "gap" if not piece.strip() else "answer"
            return True
        if self._constraint.accept(token):
            self._state = "answer"
            return True
        if piece and not piece.strip() and self._n_gap < _MAX_GAP:
            self._n_gap += 1
            return True
        return False

    def _allowed_gap(self) -> list[int]:
        if self._n_gap >= _MAX_GAP:
            return []
        spaces = (self._tokenizer.encode(text, parse_special=False) for text in ("\n", "\n\n"))
        return [tokens[0] for tokens in spaces if len(tokens) == 1]


def _beginning_of(tag: bytes, text: bytes) -> bytes:
    """Return the end of ``text`` that may be the beginning of ``tag``."""
    n = next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0)
    return text[len(text) - n :]


def visible_tokens(tags: ReasoningTags, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the control tokens of tags, which readers of the text must see.

    Parameters
    ----------
    tags : ReasoningTags
        The tags.
    tokenizer : Tokenizer
        The model's tokenizer.
    """
    tokens = {token for tag in (tags.start, tags.end, tags.answer) for token in tokenizer.encode(tag)}
    return frozenset(token for token in tokens if not tokenizer.piece(token))
