//! From where addresses of services come at a moment: the ranges of the ServiceCIDRs that are ready.

use std::net::IpAddr;

use serde_json::Value;

use super::range::{ServiceRange, ServiceRanges};
use crate::api::meta;

/// The object that stands for the cluster's own ranges.
pub const OWN: &str = "kubernetes";

/// Ranges from which addresses are given out, and which of them are kept for others.
#[derive(Clone, Copy)]
pub struct Supply<'a> {
    /// Those that are asked first come first.
    pub ranges: &'a [ServiceRange],
    /// Whether an address is kept from services.
    pub held: &'a dyn Fn(IpAddr) -> bool,
}

/// The ranges of all ServiceCIDRs that are ready and stay, the cluster's own first. Those serve for as long as no object
/// says of them, so that a cluster begins with both at once (pure).
pub fn ready<'a>(own: &ServiceRanges, objects: impl Iterator<Item = &'a Value>) -> Vec<ServiceRange> {
    let objects: Vec<&Value> = objects.collect();
    let (first, others): (Vec<&Value>, Vec<&Value>) =
        objects.into_iter().partition(|object| meta::name(object) == OWN);
    let mut ranges: Vec<ServiceRange> = if first.is_empty() { own.all().collect() } else { Vec::new() };
    for object in first.into_iter().chain(others).filter(|object| is_ready(object)) {
        let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
        for range in cidrs.filter_map(|cidr| ServiceRange::of(cidr.as_str()?)) {
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
    ranges
}

/// Whether addresses may be given out from it. One of which nobody has said anything yet is ready.
fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|condition| condition["type"] == "Ready").map(|c| &c["status"]).next();
    !meta::is_deleting(object) && ready.is_none_or(|status| status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_come_from_ranges_that_are_ready_and_stay() {
        let own = ServiceRanges::parse("10.96.0.0/16,fd00:10:96::/112").unwrap();
        let object =
            |name: &str, cidrs: &[&str]| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let said = |mut object: Value, status: &str| {
            object["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
            object
        };
        let going = |mut object: Value| {
            object["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
            object
        };
        let kubernetes = || object("kubernetes", &["10.96.0.0/16"]);
        for (objects, expected) in [
            (vec![], "10.96.0.0/16 fd00:10:96::/112"),
            (vec![object("a", &["10.7.0.0/24"])], "10.96.0.0/16 fd00:10:96::/112 10.7.0.0/24"),
            (vec![object("a", &["10.7.0.0/24"]), kubernetes()], "10.96.0.0/16 10.7.0.0/24"),
            (vec![said(object("a", &["10.7.0.0/24"]), "True"), said(kubernetes(), "False")], "10.7.0.0/24"),
            (vec![said(object("a", &["10.7.0.0/24"]), "False"), going(kubernetes())], ""),
            (vec![object("a", &["10.96.0.0/16", "fd07::/64"]), kubernetes()], "10.96.0.0/16 fd07::/64"),
            // One as large as that is nobody's to give out.
            (vec![object("a", &["fd00::/48"]), kubernetes()], "10.96.0.0/16"),
        ] {
            let ranges = ready(&own, objects.iter());
            let shown = ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(shown, expected, "{objects:?}");
        }
    }
}
