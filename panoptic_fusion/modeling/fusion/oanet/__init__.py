"""OANet: spatial ranking module and the fusion that paints in its order (section 3.2)."""
