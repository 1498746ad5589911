"""W&B's API: what it is asked, and what its answers mean. Blocking code."""
