"""The inside of utils.checkpoint: scanning, allowed classes, old layouts, copies and random states."""
