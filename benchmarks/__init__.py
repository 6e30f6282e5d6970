"""How fast the explainers are."""
