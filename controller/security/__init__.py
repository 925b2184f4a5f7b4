"""Who may come in, and how much of them: tokens, the certificate, limits."""
