"""A model divided among ranks: applied from outside to models that are written for one device."""
