"""UPSNet: the panoptic head with its unknown channel, in training and at inference (section 3.1)."""
