"""A training run: options, parts, schedule, loop, resume."""
