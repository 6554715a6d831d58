"""Example projects. A deployment whose settings name no project runs `shop`."""
