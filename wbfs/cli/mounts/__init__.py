"""Commands about mounts: making them, ending them, and how they are."""
