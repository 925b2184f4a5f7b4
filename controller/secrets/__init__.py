"""Secrets that the daemon keeps for tasks and registries. Begin with store.py; vault.py encrypts.

What is kept is in the journal as ciphertext (controller/records_state.py); the key is not.
"""
