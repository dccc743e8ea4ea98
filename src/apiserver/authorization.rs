//! Who may do what.
//!
//! Until roles are served (RBAC), every user that this cluster's CA or token key vouches for may do everything:
//! administrators, and service accounts too, as the tools of a course (dashboards, controllers) expect of a
//! cluster on their own machine. This function is where roles will be asked.

use crate::api::request::{Target, User};
use crate::api::status::Status;

/// Whether `user` may act on `target`.
pub fn authorize(user: &User, target: &Target) -> Result<(), Status> {
    if user.groups.iter().any(|g| g == "system:authenticated") {
        return Ok(());
    }
    let why = format!("User {:?} cannot access resource {:?}", user.name, target.resource);
    Err(Status::forbidden(&target.group, &target.resource, target.name.as_deref().unwrap_or(""), &why))
}
