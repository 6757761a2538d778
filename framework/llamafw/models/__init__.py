"""Model files: reading and fetching them."""
