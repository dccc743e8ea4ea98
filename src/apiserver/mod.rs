//! The API server: one generic registry over the store, and everything HTTP around it.

pub mod strategy;
