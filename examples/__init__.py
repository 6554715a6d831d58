"""Example projects. A deployment that names no project runs `shop`."""
