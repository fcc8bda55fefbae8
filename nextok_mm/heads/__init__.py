"""How the next X is predicted."""
