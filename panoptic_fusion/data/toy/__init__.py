"""Synthetic toy street scenes: the dataset of the demo and the tests."""
