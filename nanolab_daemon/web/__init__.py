"""The web page: a process of its own that reads what the daemon has written, and asks it; it publishes nothing.

Needs the extra `http`. The daemon starts it as `python -m nanolab_daemon.web`.
"""
