"""A sound classifier that learns from a teacher what open recordings sound like."""
