"""Models: whatever a user gives becomes network, transforms, classes and adapter."""
