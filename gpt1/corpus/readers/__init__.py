"""The forms in which people have books, one small file a form, each read as a stream of pieces
and refusals.
"""
