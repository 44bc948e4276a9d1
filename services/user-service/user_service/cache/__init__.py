"""Redis: the page cache."""
