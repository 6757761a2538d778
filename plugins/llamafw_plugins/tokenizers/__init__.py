"""The tokenizers of GGUF files."""
