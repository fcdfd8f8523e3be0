"""Families of models, one module each; a module's name is the family's."""
