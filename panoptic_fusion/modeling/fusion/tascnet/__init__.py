"""TASCNet: consistency loss (section 3.2) and mask-guided fusion (section 3.3)."""
