"""Example projects. `shop` is what a deployment runs that names no project of its own."""
