"""The leaderboard in parts: rows are read, compared (`statistics`), chosen by question (`views`), and written."""
