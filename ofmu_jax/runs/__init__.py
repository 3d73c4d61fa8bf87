"""Runs: from a config to a folder of results."""
