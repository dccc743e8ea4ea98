//! What a pod is beyond its author's words: the same for the server that stores it and for a node that has its manifest.

pub mod defaults;
pub mod qos;
pub mod references;
