//! Writing what a controller has found out into the status of its object.

use crate::api::status::Status;
use crate::client::reflector::Reflector;
use crate::client::{Client, Resource};

/// Writes the status that `set` puts into an object, which may have been changed since by others; one that is gone
/// needs none. `mirror` shows it afterwards.
pub async fn write<K: Resource>(
    client: &Client,
    mirror: &Reflector<K>,
    object: &K,
    set: impl Fn(&mut K),
) -> Result<(), Status> {
    let meta = object.metadata();
    let api = client.namespaced::<K>(meta.namespace.as_deref().unwrap_or(""));
    let mut next = object.clone();
    set(&mut next);
    let mut written = api.update_status(&next).await;
    if written.as_ref().is_err_and(|status| status.is("Conflict")) {
        written = match api.get(meta.name.as_deref().unwrap_or("")).await {
            Ok(mut fresh) if fresh.metadata().uid == meta.uid => {
                set(&mut fresh);
                api.update_status(&fresh).await
            }
            Ok(_) => return Ok(()),
            Err(status) => Err(status),
        };
    }
    match written {
        Ok(written) => {
            mirror.reached(&written).await;
            Ok(())
        }
        Err(status) if status.is("NotFound") => Ok(()),
        Err(status) => Err(status),
    }
}
