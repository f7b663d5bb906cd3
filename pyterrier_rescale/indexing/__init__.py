"""Documents to indexes and queries to rankings: engines, building, Java."""
