"""The doctor: what is wrong with a detector's classes, why, and what to change."""
