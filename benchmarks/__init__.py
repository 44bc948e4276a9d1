"""The measured claims. Each script prints the Markdown table that the documents show."""
