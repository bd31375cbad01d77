"""Boxes drafted from heatmaps, a start for annotation: the job of ``heat_to_detections``."""
