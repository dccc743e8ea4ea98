//! The types of the served kinds: structure, descriptions, list keys and patch strategies.
