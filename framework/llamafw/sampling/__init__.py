"""Draws a token from a row of logits: sampler chains, compiled sampler kernels, log-probabilities."""
