"""One page over all jobs of a sweep."""
