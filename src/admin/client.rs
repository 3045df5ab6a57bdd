//! To be filled: part of the admin surface.
