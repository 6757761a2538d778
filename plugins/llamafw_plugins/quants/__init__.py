"""The tensor types of ggml."""
