"""Data to trained model to exported checkpoint, with what a replay needs beside it."""
