"""The dashboard of a running Carpool, used in Debian's Chromium as a person would."""
