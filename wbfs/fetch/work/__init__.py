"""How work is done beside the answers to the kernel: in threads, in the background, shared."""
