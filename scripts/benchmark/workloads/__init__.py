"""The workloads: what each contender does in one turn, and what of it is told."""
