"""The endpoints of llama-server."""
