//! Images: references, the registry protocol, unpacking, and the store of layers that all clusters share.
//!
//! Knows registries and tar files; knows no Kubernetes words.
