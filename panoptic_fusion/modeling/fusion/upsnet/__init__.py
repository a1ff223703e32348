"""UPSNet: panoptic head with an unknown channel, in training and at inference (section 3.1)."""
