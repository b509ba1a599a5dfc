"""A chat to copy from: Django, Channels and django_daphne, nothing to build."""
