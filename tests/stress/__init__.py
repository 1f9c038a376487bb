"""Commands that prove reliability by force: kills.py and faults.py; too long for the quick suite."""
