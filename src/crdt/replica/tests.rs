//! What replicas promise each other through frames.
