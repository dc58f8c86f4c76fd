"""Follow a network: operations, channels, blocks, backbone and head."""
