"""How fast and how lean the project is: `python -m benchmarks` measures it against plain ways of doing the same."""
