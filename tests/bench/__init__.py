"""Measurements: `python -m tests.bench [--json] [--quick] [--only NAME]`. Nothing here passes or fails."""
