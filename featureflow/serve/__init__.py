"""Request -> answer: the scorer and its HTTP face."""
