"""Users, tokens, sessions and permissions."""
