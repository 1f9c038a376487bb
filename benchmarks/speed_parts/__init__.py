"""What ``benchmarks/speed.py`` is made of: the timed layers, the processes that time them, whole commands, reports."""
