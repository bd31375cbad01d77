"""The job that makes heatmaps: parameters, plan, step, record, rerun, Ray."""
