"""Many trainings under one command: what `panoptic-fusion ablation` and `leaderboard` do."""
