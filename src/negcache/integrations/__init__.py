"""At home in the trainers people use: one module a host, imported only when asked for."""
