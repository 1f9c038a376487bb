"""Files that validation and detection write."""
