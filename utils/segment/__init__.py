"""What masks add to detection: labels, loss, measures and pictures."""
