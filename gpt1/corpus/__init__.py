"""Books: where they come from, how they are kept and cleaned."""
