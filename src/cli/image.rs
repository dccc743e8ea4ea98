//! `minik image`: the images of this machine, with or without a running cluster.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::failure::{Failure, Kind};
use super::kubeconfig::Person;
use super::{Global, output};
use crate::api::yaml;
use crate::daemon::cluster::{Cluster, layers_in_use};
use crate::daemon::settings::Settings;
use crate::image::{self, Images, Progress, Stage};

/// What to do with images.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List images
    #[command(alias = "list")]
    Ls {
        /// short, table, json or yaml
        #[arg(long, default_value = "short", value_parser = ["short", "table", "json", "yaml"])]
        format: String,
    },
    /// Fetch images from their registries
    Pull {
        /// Names such as nginx:1.12.2
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Take images out of an archive (docker save, OCI layout); - is standard input
    Load {
        /// The archives
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Remove images
    #[command(alias = "unload")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Write images into an archive that docker and other tools load; - is standard output
    Save {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
        /// The archive
        #[arg(short, long)]
        output: PathBuf,
    },
}

/// Runs the verb.
pub async fn run(verb: Verb, global: &Global) -> Result<(), Failure> {
    super::require_root("use the images of this machine")?;
    let places = global.places()?;
    let settings = match Cluster::read(&places).map_err(Failure::general)? {
        Some(cluster) => cluster.images(&places),
        None => {
            let machine = Settings::of_machine().map_err(|error| Failure::new(Kind::Usage, error))?;
            image::Settings {
                dir: places.images(),
                mirrors: machine.registry_mirrors.unwrap_or_default(),
                insecure: machine.insecure_registries.unwrap_or_default(),
                docker_config: Some(Person::invoking().docker_config()),
                in_use: layers_in_use(),
                ..image::Settings::default()
            }
        }
    };
    let images = Images::open(settings).map_err(Failure::general)?;
    match verb {
        Verb::Ls { format } => list(&images, &format),
        Verb::Pull { names } => pull(&images, &names).await,
        Verb::Load { files } => load(&images, files).await,
        Verb::Rm { names } => {
            for name in names {
                for gone in images.remove(&name).map_err(failed)? {
                    output::line(format!("removed {gone}"));
                }
            }
            Ok(())
        }
        Verb::Save { names, output } => save(&images, &names, &output).await,
    }
}

/// Writes an archive beside the one of that name, which it replaces when it is whole.
async fn save(images: &Images, names: &[String], output: &Path) -> Result<(), Failure> {
    if output.as_os_str() == "-" {
        return images.save(names, io::stdout()).await.map_err(failed);
    }
    let fail = |error: io::Error| Failure::general(format!("{}: {error}", output.display()));
    // The file that a link leads to; a device or pipe can only be written to.
    let target = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
    if fs::metadata(&target).is_ok_and(|there| !there.is_file()) {
        let out = File::options().write(true).open(&target).map_err(fail)?;
        return images.save(names, out).await.map_err(failed);
    }
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = target.with_file_name(name);
    let out = File::create(&beside).map_err(fail)?;
    let saved = images.save(names, out).await.map_err(failed);
    let saved = saved.and_then(|()| fs::rename(&beside, &target).map_err(fail));
    if saved.is_err() {
        let _ = fs::remove_file(&beside);
    }
    saved
}

fn failed(error: image::Error) -> Failure {
    match &error {
        image::Error::Reference(_) => Failure::new(Kind::Usage, error),
        image::Error::NoSuchImage(_) => Failure::general(error).hint("minik image ls shows what is here"),
        _ => Failure::general(error),
    }
}

fn list(images: &Images, format: &str) -> Result<(), Failure> {
    let mut all = images.list().map_err(failed)?;
    all.sort_by(|a, b| a.references.cmp(&b.references));
    let items: Vec<serde_json::Value> = all
        .iter()
        .map(|i| json!({"id": i.id, "repoTags": i.references, "repoDigests": i.repo_digests, "size": i.size.to_string()}))
        .collect();
    match format {
        "json" => output::line(serde_json::Value::Array(items).to_string()),
        "yaml" => output::line(yaml::to_yaml(&serde_json::Value::Array(items)).trim_end()),
        "table" => {
            let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned).to_vec()];
            for image in &all {
                let id = image.id.trim_start_matches("sha256:").chars().take(13).collect::<String>();
                let names = if image.references.is_empty() {
                    vec!["<none>:<none>".to_owned()]
                } else {
                    image.references.clone()
                };
                for name in names {
                    let (name, tag) = name.rsplit_once(':').unwrap_or((&name, ""));
                    rows.push(vec![name.to_owned(), tag.to_owned(), id.clone(), megabytes(image.size)]);
                }
            }
            output::table(&rows);
        }
        _ => {
            for name in all.iter().flat_map(|i| {
                if i.references.is_empty() { vec![&i.id] } else { i.references.iter().collect() }
            }) {
                output::line(name);
            }
        }
    }
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}MB", bytes as f64 / 1e6)
}

async fn pull(images: &Images, names: &[String]) -> Result<(), Failure> {
    for name in names {
        let progress: Box<dyn Progress> =
            if io::stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines::default()) };
        let image = images.pull(name, &[], progress.as_ref()).await.map_err(failed)?;
        let shown = image.references.first().cloned().unwrap_or_else(|| image.id.clone());
        output::line(format!("{shown} ({})", image.id));
    }
    Ok(())
}

async fn load(images: &Images, files: Vec<PathBuf>) -> Result<(), Failure> {
    for path in files {
        let archive: Box<dyn Read + Send> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            let file = File::open(&path);
            let file = file.map_err(|error| Failure::general(format!("{}: {error}", path.display())))?;
            let size = file.metadata().map_or(0, |m| m.len());
            Box::new(bar(size, &path.display().to_string()).wrap_read(file))
        };
        let loaded = images.load(archive).await.map_err(|error| {
            let failure = failed(error);
            Failure { message: format!("{}: {}", path.display(), failure.message), ..failure }
        })?;
        for image in loaded {
            let names = if image.references.is_empty() { vec![image.id] } else { image.references };
            output::line(format!("loaded {}", names.join(", ")));
        }
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn bar(size: u64, name: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(size).with_style(style()).with_prefix(name.to_owned())
}

fn style() -> ProgressStyle {
    // A constant template that is right cannot fail; if it were wrong, the default style would do.
    ProgressStyle::with_template("{prefix:.dim} [{bar:30}] {bytes:>10}/{total_bytes:10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

/// One bar for each layer.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress for Bars {
    fn layer(&self, digest: &str, stage: Stage, done: u64, total: u64) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(digest.to_owned()).or_insert_with(|| {
            self.all.add(ProgressBar::new(total)).with_style(style()).with_prefix(short(digest))
        });
        bar.set_position(done);
        match stage {
            Stage::Pulling => {}
            Stage::Exists => bar.finish_with_message("already here"),
            Stage::Done => bar.finish_with_message("done"),
        }
    }
}

/// A line for each layer that is done.
#[derive(Default)]
struct Lines {
    told: Mutex<HashMap<String, Stage>>,
}

impl Progress for Lines {
    fn layer(&self, digest: &str, stage: Stage, _done: u64, total: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(digest.to_owned(), stage) == Some(stage) {
            return;
        }
        output::note(match stage {
            Stage::Pulling => format!("{}: pulling {}", short(digest), megabytes(total)),
            Stage::Exists => format!("{}: already here", short(digest)),
            Stage::Done => format!("{}: done", short(digest)),
        });
    }
}
