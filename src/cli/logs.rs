//! `minik logs`: what the daemon said.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

use super::failure::{Failure, Kind};
use super::{Global, output, target};

/// How much of the log is looked at for its last lines, in bytes.
const TAIL_BYTES: u64 = 1 << 20;
/// Between two looks at a followed log.
const LOOK: Duration = Duration::from_millis(250);

/// Flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show so many of the last lines
    #[arg(short = 'n', long, default_value_t = 60)]
    length: usize,
    /// Stay and show what comes
    #[arg(short, long)]
    follow: bool,
}

/// Runs the verb.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let places = global.places()?;
    target::check_data_dir(&places)?;
    let path = places.log();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(target::none(&places)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Failure::new(Kind::Permission, format!("only root may read {}", path.display()))
                .hint(super::with_sudo()));
        }
        Err(error) => return Err(Failure::general(format!("{}: {error}", path.display()))),
    };
    let length = file.metadata().map_err(Failure::general)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).map_err(Failure::general)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Failure::general)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(args.length)..] {
        output::line(line);
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        // One that grew too long begins anew.
        let (length, here) = (file.metadata().map_err(Failure::general)?.len(), file.stream_position());
        if length < here.map_err(Failure::general)? {
            file.rewind().map_err(Failure::general)?;
        }
        let mut more = Vec::new();
        file.read_to_end(&mut more).map_err(Failure::general)?;
        output::bytes(&more).map_err(Failure::general)?;
        tokio::time::sleep(LOOK).await;
    }
}
