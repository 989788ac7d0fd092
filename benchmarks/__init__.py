"""What training costs: `python -m benchmarks` measures it, the Cost chapter shows it."""
