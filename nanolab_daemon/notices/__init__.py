"""Notices: what a person ought to know, told to him where he is, once.

A process of its own looks at the daemon as anybody may, by its control socket and its ledger, and hands what there is
to say to apprise. However long a mail server hangs, no file waits for it.
"""
