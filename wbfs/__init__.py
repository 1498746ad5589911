"""wbfs mounts Weights & Biases artifacts as a read-only filesystem."""

__version__ = "0.1.0"
