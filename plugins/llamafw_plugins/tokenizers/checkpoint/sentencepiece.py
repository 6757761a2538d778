"""``llama`` or ``t5`` from a model of SentencePiece, such as ``tokenizer.model``.

The format is a protobuf message of the package `sentencepiece`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.named_tokens import FAIRSEQ, KEYS
from llamafw_plugins.tokenizers.checkpoint.tokens import SPACE, Tokens
from llamafw_plugins.tokenizers.checkpoint.unigram import unigram_metadata
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.vocabulary import CONTROL, UNKNOWN, USER_DEFINED

log = logging.getLogger(__name__)

FILES = ("tokenizer.model", "spiece.model", FAIRSEQ)

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_FAIRSEQ_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_FAIRSEQ_ROLES = {f"{PREFIX}{KEYS[role]}": id for id, role in enumerate(("bos", "pad", "eos", "unk"))}


def read_sentencepiece(files: TokenizerFiles, path: Path) -> dict[str, Any]:
    """Return the metadata of a model of SentencePiece."""
    proto = _read(path)
    normalizer = proto.normalizer_spec
    has_prefix = normalizer.add_dummy_prefix
    if proto.trainer_spec.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise ModelError(f"{path}: spaces are not written as ▁ before words, which GGUF cannot say")
    tokens = _read_tokens(proto, path)
    roles = _read_roles(proto)

    if proto.trainer_spec.model_type == _UNIGRAM:
        if path.name == FAIRSEQ:
            tokens, roles = _align_with_fairseq(tokens), _FAIRSEQ_ROLES
        scores = dict(tokens.scores)
        tokens.add(files.added)
        tokens.scores |= scores
        unknown = next((id for id, kind in tokens.types.items() if kind == UNKNOWN), None)
        if unknown is None:
            raise ModelError(f"{path} has no unknown token")
        merges_spaces, charsmap = normalizer.remove_extra_whitespaces, normalizer.precompiled_charsmap
        return roles | unigram_metadata(tokens, files.n_vocab, unknown, merges_spaces, has_prefix, charsmap)

    if proto.trainer_spec.model_type != _BPE:
        raise ModelError(f"{path} is neither a BPE nor a unigram model")
    if normalizer.precompiled_charsmap:
        log.warning("%s replaces characters before it splits texts; GGUF cannot say that, so some tokens differ", path)
    tokens.add(files.added)
    configured = files.config.get("add_prefix_space")
    return {
        **roles,
        f"{PREFIX}model": "llama",
        f"{PREFIX}pre": "default",
        **tokens.metadata(files.n_vocab, scores=True),
        f"{PREFIX}add_space_prefix": configured if isinstance(configured, bool) else has_prefix,
    }


def _read(path: Path) -> Any:
    """Return the message in a file."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise ModelError(f"{path} is not a model of SentencePiece") from None
    if not proto.pieces:
        raise ModelError(f"{path} is not a model of SentencePiece: it has no tokens")
    return proto


def _read_tokens(proto: Any, path: Path) -> Tokens:
    """Return the vocabulary.

    SentencePiece numbers the types of tokens as GGUF does.
    """
    ids: dict[str, int] = {}
    for id, piece in enumerate(proto.pieces):
        if ids.setdefault(piece.piece, id) != id:
            raise ModelError(f"{path} has the token {piece.piece!r} twice, as {ids[piece.piece]} and {id}")
    tokens = Tokens(ids)
    for id, piece in enumerate(proto.pieces):
        tokens.types[id], tokens.scores[id] = piece.type, piece.score
        if piece.type == USER_DEFINED:
            tokens.texts[id] = piece.piece.replace(SPACE, " ")  # such tokens are found before spaces become ▁
    return tokens


def _read_roles(proto: Any) -> dict[str, Any]:
    """Return the tokens with a role; -1 stands for none."""
    spec = proto.trainer_spec
    ids = {"bos": spec.bos_id, "eos": spec.eos_id, "unk": spec.unk_id, "pad": spec.pad_id}
    return {f"{PREFIX}{KEYS[role]}": id for role, id in ids.items() if 0 <= id < len(proto.pieces)}


def _align_with_fairseq(tokens: Tokens) -> Tokens:
    """Return the tokens with the ids that fairseq gave them: XLM-RoBERTa was trained with it.

    Its own four tokens replace the first three, and ``<mask>`` follows the last one.
    """
    n = len(tokens.texts)
    ids = {text: id for id, text in enumerate(_FAIRSEQ_TOKENS)}
    ids |= {tokens.texts[id]: id + 1 for id in range(3, n)} | {"<mask>": n + 1}
    aligned = Tokens(ids)
    for id in range(3, n):
        aligned.types[id + 1], aligned.scores[id + 1] = tokens.types[id], tokens.scores[id]
    for id in (*range(len(_FAIRSEQ_TOKENS)), n + 1):
        aligned.types[id], aligned.scores[id] = CONTROL, 0.0
    aligned.types[_FAIRSEQ_TOKENS.index("<unk>")] = UNKNOWN
    return aligned
