"""Redis: its client, and the page cache."""
