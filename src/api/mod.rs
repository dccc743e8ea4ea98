//! What the wire speaks: requests and answers as values, `Status` errors, the table of kinds, selectors,
//! quantities, schemas and patches. No I/O happens here.

pub mod cel;
pub mod certificate_request;
pub mod cidr;
pub mod complaints;
pub mod cron;
pub mod custom;
pub mod der;
pub mod duplicates;
pub mod exposition;
pub mod fields;
pub mod formats;
pub mod go;
pub mod histogram;
pub mod hops;
pub mod json_path;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod node;
pub mod node_selector;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod request;
pub mod resources;
pub mod room;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod syntax;
pub mod taints;
pub mod value;
pub mod version;
pub mod volumes;

pub mod patch;
pub mod yaml;
