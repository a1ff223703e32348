"""OANet: the spatial ranking module and the fusion in its order (section 3.2)."""
