"""How mounts are, seen from outside: none that hangs can hold up who looks."""
