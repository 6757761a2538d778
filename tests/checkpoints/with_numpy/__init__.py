"""The checkpoints of models that transformers lacks, computed by numpy from their papers and published code.

Each module has a function ``hidden(checkpoint, tensors, tokens)`` that returns the hidden states of all tokens, or
``logits`` with the same arguments. A function ``config(checkpoint)``, if there is one, returns the checkpoint's config.
"""
