//! The files that tell a pod who and where it is: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` (pure).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// The longest host name that Linux takes, in bytes.
const HOSTNAME_MAX: usize = 63;

/// The pod's host name.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let asked = spec.and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = asked.or(pod.metadata.name.as_deref()).unwrap_or("");
    let short: String = name.chars().take(HOSTNAME_MAX).collect();
    short.trim_end_matches(['-', '.']).to_owned()
}

/// The longest name that the kernel takes for a host, in bytes.
const KERNEL_MAX: usize = 64;

/// The name of the pod's host as the kernel is told, which may be asked to be the full one.
pub fn kernel_name(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let name = hostname(pod);
    let spec = pod.spec.as_ref();
    let full = spec.is_some_and(|s| s.set_hostname_as_fqdn == Some(true));
    let Some(subdomain) = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| full && !s.is_empty()) else {
        return Ok(name);
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let full = format!("{name}.{subdomain}.{namespace}.svc.{cluster_domain}");
    match full.len() {
        length if length > KERNEL_MAX => Err(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {full} is too long \
             ({KERNEL_MAX} characters is the max, {length} characters requested)"
        )),
        _ => Ok(full),
    }
}

/// `/etc/hosts` of a pod with addresses of its own.
pub fn etc_hosts(pod: &Pod, addresses: &[String], cluster_domain: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let name = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let names = match spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{name}.{subdomain}.{namespace}.svc.{cluster_domain}\t{name}"),
        None => name,
    };
    for address in addresses {
        text += &format!("{address}\t{names}\n");
    }
    text + &aliases(spec)
}

/// The host's own file with the pod's aliases, for pods on the host's network.
pub fn host_etc_hosts(pod: &Pod, host: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host}{}", aliases(pod.spec.as_ref()))
}

fn aliases(spec: Option<&PodSpec>) -> String {
    let mut text = String::new();
    for (index, alias) in spec.iter().flat_map(|s| s.host_aliases.iter().flatten()).enumerate() {
        if index == 0 {
            text += "\n# Entries added by HostAliases.\n";
        }
        text += &format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or(&[]).join("\t"));
    }
    text
}

/// What a resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options as `NAME` or `NAME:VALUE`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    pub fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// Writes a `resolv.conf`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            text += &format!("search {}\n", self.search.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

/// The host's resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// What the host itself uses.
    pub own: Resolver,
    /// Where systemd-resolved names its real servers.
    pub resolved: Resolver,
}

impl HostResolver {
    /// What a pod with a network of its own can use of it: servers on the host's loopback it cannot reach. The
    /// cluster's server asks them, so where there is no other it stands in for them.
    fn for_pods(&self, cluster_dns: &str) -> Resolver {
        let reachable = |resolver: &Resolver| Resolver {
            nameservers: resolver.nameservers.iter().filter(|server| leaves_host(server)).cloned().collect(),
            ..resolver.clone()
        };
        let mut found = reachable(&self.own);
        if found.nameservers.is_empty() {
            found = reachable(&self.resolved);
        }
        if found.nameservers.is_empty() {
            found = Resolver { nameservers: vec![cluster_dns.to_owned()], ..self.own.clone() };
        }
        found
    }
}

/// Whether an address means the same server in another network namespace.
fn leaves_host(server: &str) -> bool {
    // One with a zone names a link of the host.
    server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback() && !address.is_unspecified())
}

/// The resolver of a pod, by its DNS policy and configuration.
pub fn resolver(pod: &Pod, cluster_dns: &str, cluster_domain: &str, host: &HostResolver) -> Resolver {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let on_host = spec.host_network == Some(true);
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" | "ClusterFirst" if on_host => host.own.clone(),
        "Default" => host.for_pods(cluster_dns),
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let mut search = vec![
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ];
            search.extend(host.own.search.iter().cloned());
            Resolver {
                nameservers: vec![cluster_dns.to_owned()],
                search,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = &spec.dns_config {
        let add = |list: &mut Vec<String>, more: Option<&Vec<String>>| {
            for item in more.into_iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut resolver.nameservers, config.nameservers.as_ref());
        add(&mut resolver.search, config.searches.as_ref());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or("");
            resolver.options.retain(|o| o.split(':').next() != Some(name));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "www", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    fn host() -> HostResolver {
        let own = Resolver::parse("# x\nsearch corp.example\nnameserver 192.0.2.1\noptions edns0\n");
        HostResolver { own, ..HostResolver::default() }
    }

    #[test]
    fn the_kernel_is_told_the_full_name_when_asked() {
        let told = |spec: Value| kernel_name(&pod(spec), "cluster.local");
        assert_eq!(told(json!({"subdomain": "team"})).unwrap(), "www");
        assert_eq!(told(json!({"setHostnameAsFQDN": true})).unwrap(), "www");
        let full = json!({"setHostnameAsFQDN": true, "subdomain": "team"});
        assert_eq!(told(full).unwrap(), "www.team.shop.svc.cluster.local");
        let long = json!({"setHostnameAsFQDN": true, "subdomain": "t".repeat(40)});
        assert!(told(long).unwrap_err().ends_with("(64 characters is the max, 67 characters requested)"));
    }

    #[test]
    fn servers_on_loopback_are_for_the_host_alone() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("nameserver 127.0.0.1\nnameserver 192.0.2.1", "", &["192.0.2.1"]),
            (
                "nameserver 127.0.0.53",
                "nameserver 192.0.2.2\nnameserver 2001:db8::1",
                &["192.0.2.2", "2001:db8::1"],
            ),
            ("nameserver 127.0.0.1\nnameserver ::1", "", &["10.96.0.10"]),
            ("nameserver fe80::1%eth0", "", &["10.96.0.10"]),
            ("", "", &["10.96.0.10"]),
        ];
        for (own, resolved, expected) in cases {
            let host = HostResolver { own: Resolver::parse(own), resolved: Resolver::parse(resolved) };
            let servers =
                |spec: Value| resolver(&pod(spec), "10.96.0.10", "cluster.local", &host).nameservers;
            assert_eq!(&servers(json!({"dnsPolicy": "Default"})), expected, "{own}");
            assert_eq!(servers(json!({"dnsPolicy": "Default", "hostNetwork": true})), host.own.nameservers);
        }
    }

    #[test]
    fn resolvers_by_policy() {
        let text = |spec: Value| resolver(&pod(spec), "10.96.0.10", "cluster.local", &host()).text();
        assert_eq!(
            text(json!({})),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert_eq!(text(json!({"dnsPolicy": "Default"})), host().own.text());
        assert_eq!(text(json!({"hostNetwork": true})), host().own.text());
        assert!(
            text(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).contains("10.96.0.10")
        );
        assert_eq!(
            text(
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "options": [{"name": "ndots", "value": "2"}]}})
            ),
            "nameserver 192.0.2.9\noptions ndots:2\n"
        );
        assert!(
            text(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}))
                .contains("options ndots:1\n")
        );
    }

    #[test]
    fn hosts_file_names_the_pod_and_its_aliases() {
        let p = pod(
            json!({"hostname": "web", "subdomain": "site", "hostAliases": [{"ip": "192.0.2.5", "hostnames": ["a", "b"]}]}),
        );
        let text = etc_hosts(&p, &["10.244.0.5".into(), "fd00::5".into()], "cluster.local");
        for address in ["10.244.0.5", "fd00::5"] {
            assert!(text.contains(&format!("{address}\tweb.site.shop.svc.cluster.local\tweb\n")));
        }
        assert!(text.contains("192.0.2.5\ta\tb\n"));
        assert!(etc_hosts(&pod(json!({})), &["10.244.0.5".into()], "c").contains("10.244.0.5\twww\n"));
    }
}
