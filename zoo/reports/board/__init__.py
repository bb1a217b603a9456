"""The leaderboard in parts: runs are read into rows, compared, chosen by question, and written."""
