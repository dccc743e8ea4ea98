//! `minik version`: its own, and that of the Kubernetes that it speaks.

use super::output;
use crate::api::version::KUBERNETES;

/// Flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The number alone
    #[arg(long)]
    short: bool,
    /// text or json
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// Runs the verb.
pub fn run(args: &Args) {
    let own = env!("CARGO_PKG_VERSION");
    if args.output == "json" {
        output::line(serde_json::json!({"minikVersion": own, "kubernetesVersion": KUBERNETES}).to_string());
    } else if args.short {
        output::line(own);
    } else {
        output::line(format!("minik version: v{own}\nkubernetes version: {KUBERNETES}"));
    }
}
