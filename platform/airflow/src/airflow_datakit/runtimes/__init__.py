"""How a specification runs: one module for each runtime, of which an environment imports its own and no other."""
