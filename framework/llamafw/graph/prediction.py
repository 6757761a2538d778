"""Blocks for multi-token prediction (MTP, section 2.2 of arXiv:2412.19437).

Such a block follows the layers of a model; the model does not need it to generate text. From the hidden state of a
token, as the output matrix gets it, and the embedding of the next token, it predicts the token after that one. It has
its own attention, over such pairs of the whole text so far. To predict further tokens, its own hidden state takes the
place of the model's.

In GGUF files, the block is one more layer, with additional tensors (``nextn.*``). The embedding, the output norm and
the output matrix may be those of the model.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw.graph.blocks import output_matrix, token_embedding
from llamafw.graph.builders import concat, embedding, layer_output, linear, rms_norm
from llamafw.graph.metadata import Metadata
from llamafw.graph.model import Graph
from llamafw.graph.values import TOKENS, HiddenRows, Value
from llamafw.graph.weights import Parameters

PREFIX = "nextn."
"""Start of the names of a block's own tensors, after that of its layer."""


def prediction(
    m: Metadata, w: Parameters, n_layer: int, eps: float, block: Callable[[Value, Parameters], Value]
) -> Graph | None:
    """Return the graph of the first block after a model's layers; None if the file does not have its tensors.

    Its inputs are tokens, and the hidden states before them as `HiddenRows`.

    Parameters
    ----------
    m : Metadata
        The model's metadata.
    w : Parameters
        The model's parameters.
    n_layer : int
        Number of layers without such blocks; see `layer_count`.
    eps : float
        The epsilon of norms.
    block : callable
        Returns the output of the layer that is a part of the block, given its input and its parameters.
    """
    layer = w.layer(n_layer)
    if f"{PREFIX}eh_proj" not in layer:
        return None
    n_embd, table = m.integer("embedding_length"), f"{PREFIX}embed_tokens"
    if table in layer:
        shape = w["token_embd"].weight.shape
        token = embedding(TOKENS, layer.of_shape(table, *shape))
    else:
        token = token_embedding(m, w)

    both = [
        rms_norm(token, layer[f"{PREFIX}enorm"], eps),
        rms_norm(HiddenRows(n_embd), layer[f"{PREFIX}hnorm"], eps),
    ]
    x = linear(concat(*both), layer.of_shape(f"{PREFIX}eh_proj", n_embd, 2 * n_embd))
    x = layer_output(block(x, layer), n_layer)

    norm, head = f"{PREFIX}shared_head_norm", f"{PREFIX}shared_head_head"
    hidden = rms_norm(x, layer[norm] if norm in layer else w["output_norm"], eps)
    logits = linear(hidden, layer[head] if head in layer else output_matrix(w))
    return Graph(hidden, logits, m.integer("context_length"))
