"""What a person sees on a terminal: colours, tables, the live view, the curve of a run. In a pipe none of it is used.

Draws what the other parts have found out; finds out nothing itself, but for the points of a curve.
"""
