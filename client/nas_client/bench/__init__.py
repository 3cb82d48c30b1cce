"""Latency and throughput, measured by perf_analyzer."""
