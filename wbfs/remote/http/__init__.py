"""HTTP: connections, requests, answers and what goes wrong with them. Blocking code."""
