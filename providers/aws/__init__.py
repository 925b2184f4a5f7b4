"""EC2 at aws. Begin with adapter.py; config.py says what can be set, launching.py how machines are made."""
