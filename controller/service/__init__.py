"""everpool as a service of systemd: its unit, and putting it in its place."""
