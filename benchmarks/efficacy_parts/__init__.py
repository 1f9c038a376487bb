"""The parts of benchmarks/efficacy.py, one idea a file."""
