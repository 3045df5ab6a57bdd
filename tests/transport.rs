//! The peer transport on real sockets.
