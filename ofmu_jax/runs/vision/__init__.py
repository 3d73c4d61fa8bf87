"""Runs on image classifiers: train, unlearn, evaluate, and the demo."""
