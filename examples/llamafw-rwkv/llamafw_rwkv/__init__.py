"""RWKV-7 "Goose" (arXiv:2503.14456): the architecture, its operators, and the tokenizer of World models."""

from __future__ import annotations

from llamafw import Operator, Register, hookimpl
from llamafw_rwkv.architecture import rwkv7
from llamafw_rwkv.operators import HeadDot, TokenShift, Wkv7
from llamafw_rwkv.tokenizer import make_tokenizer

requires_api = ">=1.0,<2"


@hookimpl
def register_architectures(register: Register) -> None:
    """Register the architecture for ``general.architecture = rwkv7``."""
    register("rwkv7", rwkv7)


@hookimpl
def register_operators(register: Register) -> None:
    """Register the operators of RWKV-7, with a function for the Numba backend each."""
    from llamafw_rwkv import kernels

    register("token_shift", Operator(TokenShift, {"numba": kernels.token_shift}))
    register("wkv7", Operator(Wkv7, {"numba": kernels.wkv7}))
    register("head_dot", Operator(HeadDot, {"numba": kernels.head_dot}))


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Register the tokenizer for ``tokenizer.ggml.model = rwkv``."""
    register("rwkv", make_tokenizer)
