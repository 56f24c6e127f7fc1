"""What is asked: dtypes, arrays as described numbers, masks and the frozen Problem. Imports no GPU package."""
