"""What is seen of the machines and of the daemon: log lines, files, metrics, series, its own log.

May import actors and providers. Begin with `logs.py` for what tasks write, `series.py` for Prometheus.
"""
