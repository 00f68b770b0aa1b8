"""One question per file: each a runnable script with a pure function inside."""
