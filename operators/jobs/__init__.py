"""What all jobs share: the pipeline, inference in batches, progress."""
