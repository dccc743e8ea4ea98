//! What the wire speaks: requests and answers as values, `Status` errors, the table of kinds, selectors,
//! quantities, schemas and patches. No I/O happens here.

pub mod cel;
pub mod complaints;
pub mod duplicates;
pub mod fields;
pub mod formats;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod node;
pub mod quantity;
pub mod request;
pub mod schema;
pub mod selector;
pub mod status;
pub mod version;

pub mod patch;
pub mod yaml;
