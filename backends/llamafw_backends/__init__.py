"""The built-in backends.

They use only the public names of `llamafw`.
"""
