"""Where things lie: the steps of transforms, measured places, places as a function of the image's size."""
