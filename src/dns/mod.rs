//! Cluster DNS: the zone is a pure function of services, slices and pods, swapped whole; the server answers from it.
