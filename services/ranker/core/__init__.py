"""The ranker's decisions: which psi is held, who waits for it, what runs next. No clock, no input or output."""
