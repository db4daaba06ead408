"""The leaderboard: what is played, by whom, what was reached, and how anybody can check it."""
