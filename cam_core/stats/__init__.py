"""Statistics of samples, methods and maps: resampling, ranking, clustering."""
