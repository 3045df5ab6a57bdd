//! How many instances a component should have, and (once there are several nodes) where. Pure: the same facts give the
//! same answer on every node.

pub mod scale;
