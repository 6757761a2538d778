"""Check that a backend computes everything that a `Decoder` describes."""

from __future__ import annotations

from collections.abc import Collection

from llamafw.errors import ModelError
from llamafw.types import Decoder


def check_decoder(
    decoder: Decoder,
    backend: str,
    *,
    activations: Collection[str],
    required: Collection[str],
    optional: Collection[str] = (),
) -> None:
    """Refuse a model that a backend would compute incorrectly.

    Backends call this before they read weights.

    Parameters
    ----------
    decoder : Decoder
        The description of the model.
    backend : str
        The backend's name, for error messages.
    activations : collection of str
        The activation functions that the backend computes, as in `Decoder.activation`.
    required : collection of str
        The tensor roles without which the backend cannot compute a model, as in `Decoder.tensors`.
    optional : collection of str
        The tensor roles that the backend uses if a model has them.

    Raises
    ------
    ModelError
        The backend does not compute the activation, would ignore a tensor role, or a required role is missing.
    """
    if decoder.activation not in activations:
        raise ModelError(
            f"the {backend} backend does not compute the activation {decoder.activation!r}, only "
            f"{', '.join(activations)}; use another backend (--backend) or model"
        )
    for role in decoder.tensors:
        if role not in required and role not in optional:
            raise ModelError(
                f"the {backend} backend does not use tensors of the role {role!r}, which this model has; use another "
                "backend (--backend) or model"
            )
    for role in required:
        if role not in decoder.tensors:
            raise ModelError(f"the {backend} backend needs tensors of the role {role!r}, which this model lacks")
