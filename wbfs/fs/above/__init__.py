"""What is above the versions: asked of the server, and kept for a while. Trio thread."""
