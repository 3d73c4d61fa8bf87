"""Comparisons of methods: the same trials for each, then seeds, tests, a table and plots."""
