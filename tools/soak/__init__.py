"""Attacks on every command of panoptic_fusion: killed, starved of disk space, given bad input, started together.

`python -m soak` with PYTHONPATH=tools:tests/helpers; `make soak` runs it. See docs/reliability.md.
"""
