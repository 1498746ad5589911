"""How a mount talks with the kernel."""
