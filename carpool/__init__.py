"""The vocabulary that every part of Carpool shares."""

__version__ = "0.1.0"
