"""Our orders against what vendors and platforms have: findings, a report, and a repair that is a plan first."""
