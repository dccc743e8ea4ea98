//! Node ports: which a service needs, asks for and keeps.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::{Taken, free};
use crate::api::status::FieldError;

/// Kubernetes' default `--service-node-port-range`.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Takes the ports that a service needs beyond those that it had, and writes them into it.
pub(super) fn take_ports(
    taken: &mut Taken,
    gained: &mut Taken,
    service: &mut Value,
    (had, had_health): (&HashSet<u16>, Option<u16>),
) -> Result<(), Vec<FieldError>> {
    // A port that is asked after a service is no port of it.
    take_health_port(taken, gained, service, had_health)?;
    if !has_node_ports(service) {
        return Ok(());
    }
    let wants = wants_node_ports(service);
    let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
    let mut mine: HashSet<u16> = had.iter().copied().filter(|port| Some(*port) != had_health).collect();
    for (i, port) in ports.iter_mut().enumerate() {
        let asked = port["nodePort"].as_u64().unwrap_or(0);
        if asked == 0 {
            continue;
        }
        // One port may serve TCP and UDP of the same service.
        take_port(taken, gained, &mut mine, asked, &format!("spec.ports[{i}].nodePort"))?;
    }
    for (i, port) in ports.iter_mut().enumerate().filter(|_| wants) {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let Some(number) = free_port(taken, gained) else {
            let detail = "failed to allocate a nodePort: range is full";
            return Err(vec![FieldError::invalid(format!("spec.ports[{i}].nodePort"), &json!(0), detail)]);
        };
        port["nodePort"] = json!(number);
    }
    Ok(())
}

/// The port by which load balancers ask after a service comes from the same range.
fn take_health_port(
    taken: &mut Taken,
    gained: &mut Taken,
    service: &mut Value,
    had: Option<u16>,
) -> Result<(), Vec<FieldError>> {
    const FIELD: &str = "spec.healthCheckNodePort";
    if !is_checked(service) {
        return Ok(());
    }
    match service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) {
        0 => {
            let Some(number) = free_port(taken, gained) else {
                let detail = "failed to allocate a HealthCheck NodePort: range is full";
                return Err(vec![FieldError::invalid(FIELD, &json!(0), detail)]);
            };
            service["spec"]["healthCheckNodePort"] = json!(number);
            Ok(())
        }
        asked => take_port(taken, gained, &mut had.into_iter().collect(), asked, FIELD),
    }
}

/// Takes a port that a field asks for, unless it is one of the service's own.
fn take_port(
    taken: &mut Taken,
    gained: &mut Taken,
    mine: &mut HashSet<u16>,
    asked: u64,
    field: &str,
) -> Result<(), Vec<FieldError>> {
    let number = u16::try_from(asked).ok().filter(|n| NODE_PORTS.contains(n)).ok_or_else(|| {
        let detail = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            NODE_PORTS.start(),
            NODE_PORTS.end()
        );
        vec![FieldError::invalid(field, &json!(asked), &detail)]
    })?;
    if mine.insert(number) {
        if !taken.ports.insert(number) {
            let detail = "provided port is already allocated";
            return Err(vec![FieldError::invalid(field, &json!(number), detail)]);
        }
        gained.ports.insert(number);
    }
    Ok(())
}

/// Takes a port that nobody has.
fn free_port(taken: &mut Taken, gained: &mut Taken) -> Option<u16> {
    let (first, last) = (u64::from(*NODE_PORTS.start()), u64::from(*NODE_PORTS.end()) + 1);
    let reserved = first + ((last - first) / 32).clamp(16, 128);
    let is_taken = |n: u64| u16::try_from(n).is_ok_and(|n| taken.ports.contains(&n));
    let found = free(reserved..last, is_taken).or_else(|| free(first..reserved, is_taken));
    let number = u16::try_from(found?).ok()?;
    taken.ports.insert(number);
    gained.ports.insert(number);
    Some(number)
}

/// Whether a service may have node ports.
fn has_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// Whether it has those too that it does not ask for.
fn wants_node_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    has_node_ports(service)
        && (spec["type"] != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] != false)
}

/// Whether load balancers ask on a port of its own whether a service has endpoints on the node.
fn is_checked(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// The port on which they ask.
pub(super) fn health_port(service: &Value) -> Option<u16> {
    let port = service["spec"]["healthCheckNodePort"].as_u64()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The ports of the node that a stored service has.
pub(super) fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|p| p["nodePort"].as_u64())
        .filter_map(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .chain(health_port(service))
        .collect()
}

/// Carries the ports that were allocated over into an update that leaves them out, and drops those that a change of type
/// makes meaningless (`patchAllocatedValues` and `dropTypeDependentFields`).
pub fn carry(new: &mut Value, old: &Value) {
    let name = |port: &Value| port["name"].as_str().unwrap_or("").to_owned();
    let number = |port: &Value| port["nodePort"].as_u64().filter(|number| *number > 0);
    let ports = |service: &Value| service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let before: HashMap<String, u64> =
        ports(old).iter().filter_map(|port| Some((name(port), number(port)?))).collect();
    let mut given: HashSet<u64> = ports(new).iter().filter_map(number).collect();
    let (has, had) = (has_node_ports(new), has_node_ports(old));
    // Who changes a type and the ports at once is told what is wrong with them.
    let drops = had && !has && given.iter().all(|number| before.values().any(|before| before == number));
    for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let kept = before.get(&name(port)).copied();
        let asked = number(port);
        let Some(fields) = port.as_object_mut() else { continue };
        if drops {
            fields.remove("nodePort");
        } else if let (true, None, Some(kept)) = (has && had, asked, kept)
            && given.insert(kept)
        {
            fields.insert("nodePort".into(), kept.into());
        }
    }
    if is_checked(new) && is_checked(old) && health_port(new).is_none() && health_port(old).is_some() {
        new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::allocate::testing::{allocator, service};

    #[test]
    fn node_ports_come_and_go_with_the_type() {
        let allocator = allocator();
        let ports = json!([{"name": "web", "port": 80, "nodePort": 31000}, {"name": "dns", "port": 53}]);
        let mut old = service(json!({"type": "NodePort", "ports": ports}));
        allocator.reserve(&mut old, None).unwrap().commit();
        assert_eq!(node_ports(&old).len(), 2);
        let mut rival = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 31000}]}));
        let error = allocator.reserve(&mut rival, None).err().unwrap().remove(0);
        assert_eq!(
            error.to_string(),
            "spec.ports[0].nodePort: Invalid value: 31000: provided port is already allocated"
        );
        let mut same = service(json!({"type": "NodePort", "ports": [{"name": "web", "port": 80}]}));
        carry(&mut same, &old);
        assert_eq!(node_ports(&same), [31000]);
        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        carry(&mut plain, &old);
        assert_eq!(node_ports(&plain), Vec::<u16>::new());
        allocator.reserve(&mut plain, Some(&old)).unwrap().commit();
        allocator.reserve(&mut rival, None).unwrap().commit();
    }

    #[test]
    fn ports_stay_with_their_names() {
        let old = service(json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}));
        for (kind, ports, expected) in [
            ("NodePort", json!([{"name": "b", "port": 8081}, {"name": "c", "port": 80}]), vec![30002]),
            (
                "NodePort",
                json!([{"name": "a", "port": 80}, {"name": "b", "port": 1, "nodePort": 30001}]),
                vec![30001],
            ),
            ("LoadBalancer", json!([{"name": "a", "port": 80}]), vec![30001]),
            ("ClusterIP", json!([{"name": "a", "port": 80, "nodePort": 30001}]), vec![]),
            // Validation has a word on this one.
            ("ClusterIP", json!([{"name": "a", "port": 80, "nodePort": 30009}]), vec![30009]),
        ] {
            let mut new = service(json!({"type": kind, "ports": ports}));
            carry(&mut new, &old);
            assert_eq!(node_ports(&new), expected, "{kind} {ports}");
        }
    }

    #[test]
    fn balancers_have_only_the_ports_that_they_need() {
        let allocator = allocator();
        let spec = |allocate: bool, policy: &str, ports: Value| {
            service(json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
                "allocateLoadBalancerNodePorts": allocate, "ports": ports}))
        };
        let plain = json!([{"port": 80, "protocol": "TCP"}]);
        for (allocate, policy, ports, count) in [
            (true, "Cluster", plain.clone(), 1),
            (false, "Cluster", plain.clone(), 0),
            (true, "Local", plain.clone(), 2),
            (false, "Local", json!([{"port": 80, "nodePort": 30034}]), 2),
        ] {
            let mut new = spec(allocate, policy, ports);
            allocator.reserve(&mut new, None).unwrap().commit();
            assert_eq!(node_ports(&new).len(), count, "{new}");
            assert_eq!(new["spec"]["healthCheckNodePort"].is_u64(), policy == "Local");
        }
        // An update that leaves it out keeps it; one that has no use for it gives it back.
        let mut old = spec(false, "Local", plain.clone());
        allocator.reserve(&mut old, None).unwrap().commit();
        let port = old["spec"]["healthCheckNodePort"].clone();
        let mut new = spec(false, "Local", plain.clone());
        carry(&mut new, &old);
        assert_eq!(new["spec"]["healthCheckNodePort"], port);
        let taker = || {
            let mut taker = spec(false, "Local", plain.clone());
            taker["spec"]["healthCheckNodePort"] = port.clone();
            taker
        };
        assert!(allocator.reserve(&mut taker(), None).is_err());
        allocator.reserve(&mut spec(false, "Cluster", plain.clone()), Some(&old)).unwrap().commit();
        allocator.reserve(&mut taker(), None).unwrap().commit();
    }
}
