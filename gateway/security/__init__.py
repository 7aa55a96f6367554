"""Who may come in: API keys and development tokens."""
