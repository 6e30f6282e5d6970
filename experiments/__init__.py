"""Scripts that reproduce the papers: one a paper, one sub-command a table or figure."""
