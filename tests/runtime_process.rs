//! The process runtime keeps the contract of all runtimes.
