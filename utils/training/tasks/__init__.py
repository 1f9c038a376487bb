"""The tasks that the training engine knows: what detection, segmentation and classification each add to a run."""
