"""Helpers of the tests: tiny models, and references that owe nothing to the code under test."""
