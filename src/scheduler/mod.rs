//! The scheduler: filters and scores nodes (pure), binds pods.
