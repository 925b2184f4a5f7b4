"""aws in this process: moto behind a layer that does what moto does not. Begin with fake.py."""
