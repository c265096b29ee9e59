"""Tasks of lm-evaluation-harness: it builds the prompts and scores, the launcher sends the requests."""
