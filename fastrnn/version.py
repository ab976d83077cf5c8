"""The version, and nothing that needs importing first."""

__version__ = "0.1.0"
