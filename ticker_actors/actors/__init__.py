"""The four actors, and the lane that an account has at its broker."""
