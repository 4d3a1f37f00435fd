"""Where images come from: one small module a set, and `tasks` that pairs two of them into a transfer."""
