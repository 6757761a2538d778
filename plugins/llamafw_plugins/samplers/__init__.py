"""The samplers of llama-server."""
