"""Toy street scenes, drawn by this package: the data set of the demo and the tests."""
