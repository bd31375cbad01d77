"""What is explained: classes, contrasts, masks, anything that gives one score per image."""
