"""How fast the loop, its data and its metrics are, measured beside others."""
