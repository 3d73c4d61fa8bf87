"""Machine unlearning in JAX."""
