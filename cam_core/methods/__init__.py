"""CAM methods: one file per family, one decorated function per method."""
