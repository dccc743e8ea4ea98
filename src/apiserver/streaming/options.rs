//! Query parameters of streaming requests as options: `PodLogOptions`, `PodExecOptions`, `PodAttachOptions`,
//! `PodPortForwardOptions` (k8s.io/api core/v1).

use crate::api::node::{ExecOptions, LogOptions};
use crate::api::status::{FieldError, Status};

/// The decoded parameters in their order.
fn pairs(query: &str) -> Vec<(String, String)> {
    url_pairs(query).collect()
}

fn url_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    })
}

/// A parameter's text; `+` is a space, and then as in a path.
fn decode(text: &str) -> String {
    crate::apiserver::http::query::decode_path(&text.replace('+', " "))
}

struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// Kubernetes reads `0` and `false` as false, anything else that is there as true.
    fn flag(&self, name: &str, default: bool) -> bool {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map_or(default, |(_, value)| !matches!(value.as_str(), "0" | "false"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}

/// The container that is meant (empty: the pod's default) and which of its log. Complaints name the pod, as those of
/// `ValidatePodLogOptions` do.
pub fn log(pod: &str, query: &str) -> Result<(String, LogOptions), Status> {
    let query = Parameters(pairs(query));
    let since_time = match query.text("sinceTime").map(|text| (text, text.parse())) {
        None => None,
        Some((_, Ok(time))) => Some(time),
        Some((text, Err(_))) => {
            return Err(Status::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            )));
        }
    };
    let (since_seconds, tail_lines, limit_bytes) =
        (query.number("sinceSeconds")?, query.number("tailLines")?, query.number("limitBytes")?);
    let stream = query.text("stream").map(str::to_owned);
    let mut errors = Vec::new();
    let mut at_least = |name: &str, number: Option<i64>, least: i64, why: &str| {
        if let Some(number) = number.filter(|number| *number < least) {
            errors.push(FieldError::invalid(name, &number.into(), why));
        }
    };
    at_least("tailLines", tail_lines, 0, "must be greater than or equal to 0");
    at_least("limitBytes", limit_bytes, 1, "must be greater than 0");
    if since_time.is_none() {
        at_least("sinceSeconds", since_seconds, 1, "must be greater than 0");
    } else if since_seconds.is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden("", why));
    }
    match stream.as_deref() {
        None | Some("All") => {}
        Some("Stdout" | "Stderr") if tail_lines.is_none() => {}
        Some("Stdout" | "Stderr") => {
            let why = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(FieldError::forbidden("", why));
        }
        Some(other) => {
            errors.push(FieldError::not_supported("stream", &other.into(), &["Stdout", "Stderr", "All"]));
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", pod, &errors));
    }
    let options = LogOptions {
        follow: query.flag("follow", false),
        previous: query.flag("previous", false),
        since_seconds,
        since_time,
        timestamps: query.flag("timestamps", false),
        tail_lines: tail_lines.and_then(|lines| u64::try_from(lines).ok()),
        limit_bytes: limit_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        stream,
    };
    Ok((query.text("container").unwrap_or_default().to_owned(), options))
}

/// The container and the streams of an exec, with the command, or of an attach, which has none.
pub fn process(query: &str, exec: bool) -> Result<(String, ExecOptions), Status> {
    let query = Parameters(pairs(query));
    let tty = query.flag("tty", false);
    let options = ExecOptions {
        command: if exec { query.all("command") } else { Vec::new() },
        stdin: query.flag("stdin", false),
        // Attach connects the outputs unless told otherwise, exec only what it is told.
        stdout: query.flag("stdout", !exec),
        stderr: query.flag("stderr", !exec && !tty) && !tty,
        tty,
    };
    if exec && options.command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok((query.text("container").unwrap_or_default().to_owned(), options))
}

/// The ports of an old-style port-forward: repeated, or separated by commas.
pub fn ports(query: &str) -> Result<Vec<u16>, Status> {
    let all = Parameters(pairs(query)).all("ports");
    all.iter().flat_map(|text| text.split(',')).map(port).collect()
}

/// Reads a port number from 1 on.
pub fn port(text: &str) -> Result<u16, Status> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) => Err(Status::bad_request(format!("port {text:?} must be > 0"))),
        Err(_) => Err(Status::bad_request(format!("unable to parse {text:?} as a port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options() {
        let (container, options) = log("www", "container=web&follow=true&tailLines=10&timestamps=1").unwrap();
        assert_eq!(container, "web");
        let expected =
            LogOptions { follow: true, tail_lines: Some(10), timestamps: true, ..LogOptions::default() };
        assert_eq!(options, expected);
        let (_, options) =
            log("www", "sinceTime=2026-01-01T00%3A00%3A00Z&previous=false&stream=Stderr").unwrap();
        assert_eq!(options.since_time, "2026-01-01T00:00:00Z".parse().ok());
        assert!(!options.previous);
        assert_eq!(options.stream.as_deref(), Some("Stderr"));
        let cases = [
            ("tailLines=x", 400),
            ("tailLines=-1", 422),
            ("sinceSeconds=0", 422),
            ("limitBytes=0", 422),
            ("sinceTime=yesterday", 400),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=Both", 422),
            ("stream=Stdout&tailLines=1", 422),
        ];
        for (query, code) in cases {
            assert_eq!(log("www", query).unwrap_err().code, code, "{query}");
        }
        assert_eq!(
            log("www", "tailLines=-1").unwrap_err().message,
            "PodLogOptions \"www\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
        );
    }

    #[test]
    fn process_options() {
        let (container, options) =
            process("command=sh&command=-c&command=echo+a%26b&stdout=true&stdin=1&container=c", true)
                .unwrap();
        assert_eq!((container.as_str(), options.command.len()), ("c", 3));
        assert_eq!(options.command[2], "echo a&b");
        assert!(options.stdin && options.stdout && !options.stderr && !options.tty);
        let (_, terminal) = process("command=sh&stdout=1&stderr=1&tty=1", true).unwrap();
        assert!(terminal.tty && !terminal.stderr);
        let (_, attach) = process("", false).unwrap();
        assert!(attach.stdout && attach.stderr && !attach.stdin);
        assert_eq!(process("stdout=1", true).unwrap_err().code, 400);
        assert_eq!(process("command=sh", true).unwrap_err().code, 400);
    }

    #[test]
    fn port_lists() {
        assert_eq!(ports("ports=80&ports=443,8080").unwrap(), [80, 443, 8080]);
        assert!(ports("").unwrap().is_empty());
        for query in ["ports=0", "ports=65536", "ports=", "ports=a"] {
            assert_eq!(ports(query).unwrap_err().code, 400, "{query}");
        }
    }
}
