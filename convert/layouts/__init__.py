"""Where the tensors of a file come from, for each architecture: a table of slots in a module of its own."""
