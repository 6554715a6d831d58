"""The assets by the layer that they belong to. An asset reads, calls its room, and says what came out."""
