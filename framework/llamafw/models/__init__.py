"""Model files: how they are found, downloaded and read."""
