"""From a Problem to a variant and a dispatch key, and to a Plan. Never imports kernels or a GPU package."""
