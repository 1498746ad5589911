"""What will be read next: who reads how, and the queue of files that nobody waits for yet."""
