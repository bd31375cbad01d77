"""Running any ``nn.Module``: as plain modules, on trial images, known by a signature."""
