"""Opens data sets and makes batches of them. Imports neither JAX nor a network."""
