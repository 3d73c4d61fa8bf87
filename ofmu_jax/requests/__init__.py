"""Deletion requests: served one after another, each with a record that can be recomputed."""
