"""The paper and beyond: the demo on the embedded pair, later reproduction and search."""
