//! Manifests, indexes and configurations: what of them matters, read from both families of media types.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};

/// What an image says about the process that it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments after those, unless others are given.
    pub cmd: Vec<String>,
    /// Where it starts; empty is `/`.
    pub working_dir: String,
    /// `NAME`, `UID`, `NAME:GROUP`, ...; empty is root.
    pub user: String,
    /// `SIGQUIT`.
    pub stop_signal: Option<String>,
}

/// What the `Accept` header of a manifest request names.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest request's answer.
pub enum Document {
    /// One image.
    Manifest(Box<ImageManifest>),
    /// One for each platform.
    Index(Box<ImageIndex>),
}

/// Reads either kind by its shape, as media types are not always told.
pub fn parse(bytes: &[u8]) -> Result<Document, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("its manifest is not JSON: {e}"))?;
    let is_index = value.get("manifests").is_some();
    // One document that is an index to some readers and an image to others (CVE-2021-41190).
    if is_index && (value.get("layers").is_some() || value.get("config").is_some()) {
        return Err("it is an index and a manifest at once".to_owned());
    }
    if let Some(told) = value["mediaType"].as_str() {
        let says_index = told.contains("image.index.") || told.contains("manifest.list.");
        if says_index != is_index && (says_index || told.contains(".manifest.v")) {
            return Err(format!("its media type {told} contradicts what it holds"));
        }
    }
    if is_index {
        let index: ImageIndex =
            serde_json::from_value(value).map_err(|e| format!("its index cannot be read: {e}"))?;
        return Ok(Document::Index(Box::new(index)));
    }
    if value["schemaVersion"] == 1 {
        return Err("its manifest has the withdrawn schema 1: push it again with a current tool".to_owned());
    }
    let manifest: ImageManifest =
        serde_json::from_value(value).map_err(|e| format!("its manifest cannot be read: {e}"))?;
    Ok(Document::Manifest(Box::new(manifest)))
}

/// What a manifest says that it is; OCI's kind when it does not say.
pub fn media_type(manifest: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    value["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned()
}

/// The entry of an index that this machine runs; attestations and foreign platforms are passed over.
pub fn choose(index: &ImageIndex) -> Result<&Descriptor, String> {
    let ours = Arch::default();
    let all = index.manifests();
    let rank = |descriptor: &Descriptor| {
        let platform = descriptor.platform().as_ref()?;
        let runs = *platform.os() == Os::Linux && *platform.architecture() == ours;
        runs.then(|| variant_rank(&ours, platform.variant().as_deref())).flatten()
    };
    let ranked = all.iter().filter_map(|descriptor| Some((rank(descriptor)?, descriptor)));
    // Of equals, the first.
    if let Some((_, found)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(found);
    }
    if let [only] = all.as_slice()
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let offered: Vec<String> = all
        .iter()
        .filter_map(|d| d.platform().as_ref())
        .map(|p| {
            let variant = p.variant().as_deref().map(|v| format!("/{v}")).unwrap_or_default();
            format!("{}/{}{variant}", p.os(), p.architecture())
        })
        .filter(|p| p != "unknown/unknown")
        .collect();
    Err(format!("there is no image for linux/{ours} in it, only for {}", offered.join(", ")))
}

/// How far a variant of an architecture is from what every machine of it runs, 0 first; `None` needs a newer one.
fn variant_rank(arch: &Arch, variant: Option<&str>) -> Option<u8> {
    match (arch, variant.unwrap_or("")) {
        (_, "") | (Arch::Amd64, "v1") | (Arch::ARM64, "v8") | (Arch::ARM, "v7") => Some(0),
        (Arch::ARM, "v6") => Some(1),
        (Arch::ARM, "v5") => Some(2),
        (Arch::Amd64 | Arch::ARM64 | Arch::ARM, _) => None,
        _ => Some(0),
    }
}

/// Whether a configuration is for this machine; one that does not say is taken to be.
pub fn check_platform(config: &[u8]) -> Result<(), String> {
    let value: serde_json::Value =
        serde_json::from_slice(config).map_err(|e| format!("its configuration cannot be read: {e}"))?;
    let ours = Arch::default().to_string();
    let told = |key: &str, default: &str| match value[key].as_str() {
        None | Some("") => default.to_owned(),
        Some(told) => told.to_owned(),
    };
    let (os, mut arch) = (told("os", "linux"), told("architecture", &ours));
    // What the kernel calls them.
    match arch.as_str() {
        "x86_64" | "x86-64" => arch = "amd64".to_owned(),
        "aarch64" => arch = "arm64".to_owned(),
        _ => {}
    }
    if os == "linux" && arch == ours {
        return Ok(());
    }
    Err(format!("it is an image for {os}/{arch}, this machine is linux/{ours}"))
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// By the first bytes of the stream, which media types sometimes contradict.
    pub fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// What matters of a configuration: the process, and the digests of the uncompressed layers.
pub fn config(bytes: &[u8]) -> Result<(ImageConfig, Vec<String>), String> {
    let parsed: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| format!("its configuration cannot be read: {e}"))?;
    let process = parsed.config().clone().unwrap_or_default();
    let config = ImageConfig {
        env: process.env().clone().unwrap_or_default(),
        entrypoint: process.entrypoint().clone().unwrap_or_default(),
        cmd: process.cmd().clone().unwrap_or_default(),
        working_dir: process.working_dir().clone().unwrap_or_default(),
        user: process.user().clone().unwrap_or_default(),
        stop_signal: process.stop_signal().clone().filter(|s| !s.is_empty()),
    };
    Ok((config, parsed.rootfs().diff_ids().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(os: &str, arch: &str, digit: &str) -> serde_json::Value {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
               "digest": format!("sha256:{}", digit.repeat(64)),
               "platform": {"os": os, "architecture": arch}})
    }

    #[test]
    fn the_machines_own_platform_is_chosen() {
        let ours = Arch::default().to_string();
        let other = if ours == "amd64" { "arm64" } else { "amd64" };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("linux", other, "1"), entry("unknown", "unknown", "2"), entry("linux", &ours, "3")]});
        let Document::Index(index) = parse(index.to_string().as_bytes()).unwrap() else { panic!("no index") };
        assert!(choose(&index).unwrap().digest().to_string().ends_with('3'));
        let foreign = json!({"schemaVersion": 2, "manifests": [entry("linux", other, "1"), entry("unknown", "unknown", "2")]});
        let Document::Index(foreign) = parse(foreign.to_string().as_bytes()).unwrap() else {
            panic!("no index")
        };
        assert!(choose(&foreign).unwrap_err().ends_with(&format!("only for linux/{other}")));
    }

    #[test]
    fn variants_that_every_machine_runs_come_first() {
        let ours = Arch::default().to_string();
        let with = |variant: &str, digit: &str| {
            let mut entry = entry("linux", &ours, digit);
            entry["platform"]["variant"] = variant.into();
            entry
        };
        let chosen = |manifests: serde_json::Value| {
            let index = json!({"schemaVersion": 2, "manifests": manifests});
            let Document::Index(index) = parse(index.to_string().as_bytes()).unwrap() else {
                panic!("no index")
            };
            choose(&index).map(|d| d.digest().to_string().chars().last())
        };
        assert_eq!(chosen(json!([with("v99", "1"), entry("linux", &ours, "2")])), Ok(Some('2')));
        let error = chosen(json!([with("v99", "1")])).unwrap_err();
        assert!(error.ends_with(&format!("only for linux/{ours}/v99")), "{error}");
        assert_eq!(variant_rank(&Arch::Amd64, Some("v1")), Some(0));
        assert_eq!(variant_rank(&Arch::Amd64, Some("v3")), None);
        assert_eq!(variant_rank(&Arch::ARM64, Some("v8")), Some(0));
    }

    #[test]
    fn documents_of_two_kinds_are_refused() {
        let index = "application/vnd.oci.image.index.v1+json";
        let manifest = "application/vnd.docker.distribution.manifest.v2+json";
        for (document, reason) in [
            (json!({"schemaVersion": 2, "manifests": [], "layers": []}), "at once"),
            (json!({"schemaVersion": 2, "manifests": [], "config": {}}), "at once"),
            (json!({"schemaVersion": 2, "mediaType": manifest, "manifests": []}), "contradicts"),
            (json!({"schemaVersion": 2, "mediaType": index, "layers": [], "config": {}}), "contradicts"),
        ] {
            let error = parse(document.to_string().as_bytes()).err().unwrap();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_configuration_for_another_machine_is_refused() {
        let ours = Arch::default().to_string();
        let check = |config: serde_json::Value| check_platform(config.to_string().as_bytes());
        assert_eq!(check(json!({"os": "linux", "architecture": ours})), Ok(()));
        assert_eq!(check(json!({"os": "", "architecture": ""})), Ok(()));
        assert_eq!(check(json!({"architecture": std::env::consts::ARCH})), Ok(()));
        let error = check(json!({"os": "linux", "architecture": "s390x"})).unwrap_err();
        assert_eq!(error, format!("it is an image for linux/s390x, this machine is linux/{ours}"));
        assert!(check(json!({"os": "windows", "architecture": ours})).is_err());
    }

    #[test]
    fn old_and_broken_manifests_are_named() {
        assert!(parse(b"{").err().unwrap().contains("not JSON"));
        assert!(parse(br#"{"schemaVersion":1}"#).err().unwrap().contains("schema 1"));
        assert!(parse(br#"{"schemaVersion":2}"#).err().unwrap().contains("cannot be read"));
    }
}
