"""Helpers of the training, validation and detection scripts. Importing this package does nothing."""
