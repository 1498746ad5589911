"""Which bytes to get, when and in what order; the one door from trio to worker threads."""
