"""The daemon on a virtual clock: a journal in memory and a house without processes around it."""
