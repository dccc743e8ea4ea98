//! Who manages which fields of an object: field sets, and what updates and server-side apply make of them.
//!
//! A [`Set`] names fields; its wire form is `fieldsV1`. [`Managers`] are the sets of an object's
//! `metadata.managedFields`. [`update`] says how ownership moves when an object was changed, [`apply`] merges an
//! applied configuration into the live object. How lists and maps merge comes from the [`Schema`], of which there may be
//! none: then objects merge by key and everything else is one value.
//!
//! The behaviour is that of sigs.k8s.io/structured-merge-diff and of k8s.io/apimachinery `pkg/util/managedfields`.

mod atomic;
mod check;
mod collect;
mod compare;
mod conflict;
mod last_applied;
mod managers;
mod merge;
mod operation;
mod remove;
mod renewed;
mod set;
mod step;
mod types;
mod wire;

pub use self::atomic::atomics;
pub use self::check::check;
pub use self::compare::{Comparison, compare};
pub use self::conflict::{Conflict, status as conflict_status};
pub use self::managers::{Identity, Managers, Owned};
pub use self::merge::{Error as MergeError, merge};
pub use self::operation::{Applied, Context, Converted, Failure, Versions, apply, changes, update};
pub use self::renewed::renewed;
pub use self::set::Set;
pub use self::step::Step;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
