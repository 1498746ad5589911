"""A W&B-compatible stand-in server for demos and tests."""
