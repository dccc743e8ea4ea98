//! The kubelet: makes the pods bound to this node real, and their status true.
