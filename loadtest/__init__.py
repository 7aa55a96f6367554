"""Load tests: locust users, the real perf_analyzer, and the texts that both send."""
