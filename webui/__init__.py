"""The bridge to AUTOMATIC1111 and Forge. ``scripts/lokr.py`` is its door, and gives this package its name there."""
