"""How the pictures of the parts data set are drawn."""
