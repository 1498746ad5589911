"""What the stand-in server knows: its database, and what is in it."""
