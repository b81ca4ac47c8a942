"""Devices that hold the arena and run the model."""
