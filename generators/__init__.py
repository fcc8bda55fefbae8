"""One file a method; a kind is the name of its module."""
