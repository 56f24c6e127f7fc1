"""Small kernels that every GPU family shares."""
