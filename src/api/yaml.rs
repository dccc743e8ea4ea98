//! Request bodies in YAML, read as kubectl reads them.
