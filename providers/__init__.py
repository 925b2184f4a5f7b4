"""The outside world: what a provider is, and one adapter per vendor.

Nothing here imports `actors` or `controller`. Begin with `contract.py`, then `model.py`.
"""
