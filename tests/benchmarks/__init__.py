"""Speed and quality beside bare loops and peers; each module runs as `python -m tests.benchmarks.NAME`."""
