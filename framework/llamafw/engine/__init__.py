"""The engine: one thread that turns requests into deltas. It knows nothing of HTTP."""
