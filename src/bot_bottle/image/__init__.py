"""Where an image comes from: the engine, an archive, a layout; and its one root filesystem."""
