"""Pages in a browser, and who may open them."""
