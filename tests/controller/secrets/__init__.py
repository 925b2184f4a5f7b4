"""Secrets that the daemon keeps."""
