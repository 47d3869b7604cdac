"""Scripts that run the book, build its site, and test both."""
