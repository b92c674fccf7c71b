"""All mathematics of the library as pure functions of tensors."""
