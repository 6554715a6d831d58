"""A forum: counters of authors and of copies of a text, for a model of whether moderators will remove a text."""
