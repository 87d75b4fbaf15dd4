"""The version of this package, written into every plan."""

__version__ = "0.1.0"
