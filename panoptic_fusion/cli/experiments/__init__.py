"""Implementation of `panoptic-fusion ablation` and `leaderboard`, which run many training runs with one command."""
