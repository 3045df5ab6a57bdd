//! What one node is meant to do for one component: its part of the plan of the cluster.
//!
//! Says nothing of how that was found; a node that has heard nothing of a plan has the default, which asks for nothing.

/// See the head of this file. Everything is absolute: the next one replaces it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Instances that are meant to be here, frozen ones included.
    pub count: u32,
    /// How many of them are never frozen.
    pub warm: u32,
    /// Instances that have a place in the cluster, here or elsewhere.
    pub placed: u32,
    /// Instances that take events elsewhere.
    pub serving_elsewhere: u32,
    /// Events that wait here and may be on their way to other nodes at one moment: what instances take there at once, where
    /// nobody waits. Looked at only while some wait here.
    pub room_elsewhere: u32,
    /// The component has as many instances elsewhere as it may have: none is started here for an event alone.
    pub full_elsewhere: bool,
    /// Old instances of this node stay, and no new ones come in their place, until it is this node's turn.
    pub hold: bool,
    /// The hash of the fingerprint that all this is about; 0 if nothing is planned. What is meant for another definition
    /// says nothing of whose turn it is.
    pub of: u64,
    /// A strict singleton cannot run here: too few of the nodes are seen.
    pub apart: bool,
    /// What is unused leaves now and not after its idle timeout: the node is to be empty.
    pub leave: bool,
}
