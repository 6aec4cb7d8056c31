"""Items kept and found: records, vectors derived from them, ingest, and above these collections and
search.
"""
