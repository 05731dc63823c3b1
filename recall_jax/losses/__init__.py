"""Which items a step scores, their log q and masks, what they cost."""
