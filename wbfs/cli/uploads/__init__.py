"""`wbfs put`: what is there becomes a version, by the wandb SDK in a process of its own."""
