"""Maps made by people: a page on which annotators decide and mark, its answers, and their maps."""
