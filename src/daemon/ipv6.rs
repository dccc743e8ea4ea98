//! How far IPv6 goes on this host for all that a cluster does with it.

use tokio::task;

use super::places::Places;
use crate::network::{self, Ipv6};
use crate::proxy;

/// How far the host's IPv6 goes; there is none for a cluster where a part of what it needs is missing.
pub async fn ipv6() -> Ipv6 {
    // A kernel that does not say what it has of IPv6 has none that could be used.
    let unknown = Ipv6::Absent("the kernel does not tell its IPv6 addresses");
    let found = network::ipv6(Places::is_link).await.unwrap_or(unknown);
    if matches!(found, Ipv6::Absent(_)) {
        return found;
    }
    match task::spawn_blocking(proxy::probe6).await {
        Ok(Ok(())) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "trying out the rules of IPv6");
            Ipv6::Absent("nf_tables cannot refuse, masquerade or look up addresses of IPv6")
        }
        Err(_) => Ipv6::Absent("nf_tables could not be tried with IPv6"),
    }
}
