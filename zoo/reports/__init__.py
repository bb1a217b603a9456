"""What is read off finished runs: leaderboards, suites of runs, published references."""
