//! To be filled: part of the admin surface.
/// The deadline of a request.
pub const REQUEST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
