"""The backends that ship with llamafw. They use only what ``import llamafw`` offers."""
