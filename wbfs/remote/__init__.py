"""W&B's API and the reference schemes. Blocking code, run in worker threads; no trio here."""
