"""How variants are scored: metrics by name, one written protocol each, and the leaderboard made from them."""
