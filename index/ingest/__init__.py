"""Files and texts to items: read, decoded, encoded and written, and encoded anew for another
bundle.
"""
