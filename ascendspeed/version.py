"""The one place the version is written; setup reads it without importing the package."""

__all__ = ["__version__"]

__version__ = "0.1.0"
