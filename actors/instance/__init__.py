"""An instance: one machine, from its first order to its observed absence."""
