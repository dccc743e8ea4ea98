//! `kubectl run` as it was up to Kubernetes 1.17: with `--replicas` it made a Deployment, which kubectl no longer does.

use serde_json::{Value, json};

/// What such a command asks for.
#[derive(Debug, PartialEq)]
pub struct Run {
    name: String,
    image: String,
    /// The Deployment.
    pub manifest: Value,
    /// The flags that are not about the Deployment, for `kubectl create`.
    pub rest: Vec<String>,
}

impl Run {
    /// What one should write instead.
    pub fn warning(&self) -> String {
        format!(
            "Warning: kubectl run makes pods only since Kubernetes 1.18; made a Deployment as before. Today's command: \
             kubectl create deployment {} --image={} --replicas={}",
            self.name, self.image, self.manifest["spec"]["replicas"]
        )
    }
}

/// Reads the arguments of kubectl (pure); `None` for anything but a `run` with `--replicas`.
///
/// # Errors
/// When such a `run` has no name or image, or a number is none.
pub fn read(arguments: &[String]) -> Result<Option<Run>, String> {
    let (flags, command) = match arguments.iter().position(|argument| argument == "--") {
        Some(end) => (&arguments[..end], &arguments[end + 1..]),
        None => (arguments, &[][..]),
    };
    let is_replicas = |flag: &String| flag == "--replicas" || flag.starts_with("--replicas=");
    if flags.first().map(String::as_str) != Some("run") || !flags.iter().any(is_replicas) {
        return Ok(None);
    }
    let Some(name) = flags.get(1).filter(|name| !name.starts_with('-')) else {
        return Err(
            "kubectl run --replicas: the name must come first, as in: kubectl run NAME --image=IMAGE".into(),
        );
    };
    let (mut image, mut replicas, mut port) = (None, None, None);
    let (mut environment, mut labels) = (Vec::new(), serde_json::Map::new());
    let (mut replaces, mut rest) = (false, Vec::new());
    let mut left = flags[2..].iter();
    while let Some(argument) = left.next() {
        let (flag, given) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_str(), None),
        };
        if flag == "--command" {
            replaces = given != Some("false");
            continue;
        }
        if !["--replicas", "--image", "--port", "--env", "--labels", "-l"].contains(&flag) {
            rest.push(argument.clone());
            continue;
        }
        let value =
            given.or_else(|| left.next().map(String::as_str)).ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{flag}={value}: it must be a number"));
        let pairs = |text: &str| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!("{flag} {text}: it must be KEY=VALUE")),
        };
        match flag {
            "--replicas" => replicas = Some(number()?),
            "--port" => port = Some(number()?),
            "--image" => image = Some(value.to_owned()),
            "--env" => {
                let (name, value) = pairs(value)?;
                environment.push(json!({"name": name, "value": value}));
            }
            _ => {
                for label in value.split(',') {
                    let (key, value) = pairs(label)?;
                    labels.insert(key, json!(value));
                }
            }
        }
    }
    let image = image.ok_or(format!("kubectl run {name}: name the image: --image=IMAGE"))?;
    if labels.is_empty() {
        labels.insert("run".into(), json!(name));
    }
    let mut container = json!({"name": name, "image": image});
    if let Some(port) = port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if !environment.is_empty() {
        container["env"] = json!(environment);
    }
    if !command.is_empty() {
        container[if replaces { "command" } else { "args" }] = json!(command);
    }
    let manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}});
    Ok(Some(Run { name: name.clone(), image, manifest, rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_a_run_with_replicas_is_an_old_one() {
        for line in [
            "get pods",
            "run www --image=nginx",
            "scale deploy/a --replicas=2",
            "run a --image=b -- --replicas=2",
            "",
        ] {
            assert_eq!(read(&words(line)), Ok(None), "{line}");
        }
    }

    #[test]
    fn an_old_run_is_a_deployment() {
        let run = read(&words("run vote-dep --image=instavote/vote --replicas=2")).unwrap().unwrap();
        let labels = json!({"run": "vote-dep"});
        assert_eq!(
            run.manifest,
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "vote-dep", "labels": labels},
                "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "vote-dep", "image": "instavote/vote"}]}}}})
        );
        assert!(run.rest.is_empty());
        assert!(
            run.warning().ends_with("kubectl create deployment vote-dep --image=instavote/vote --replicas=2")
        );

        let line = "run a --replicas 3 -n blue --image b --port=80 --env=K=V=W --env X=Y -l one=1,two=2 --dry-run=client \
                    -o yaml --command -- sh -c true";
        let run = read(&words(line)).unwrap().unwrap();
        assert_eq!(run.rest, words("-n blue --dry-run=client -o yaml"));
        let spec = &run.manifest["spec"];
        assert_eq!(
            (&spec["replicas"], &spec["selector"]["matchLabels"]),
            (&json!(3), &json!({"one": "1", "two": "2"}))
        );
        assert_eq!(
            spec["template"]["spec"]["containers"][0],
            json!({"name": "a", "image": "b", "ports": [{"containerPort": 80}], "command": ["sh", "-c", "true"],
                "env": [{"name": "K", "value": "V=W"}, {"name": "X", "value": "Y"}]})
        );
        let run = read(&words("run a --replicas=1 --image=b -- -v")).unwrap().unwrap();
        assert_eq!(run.manifest["spec"]["template"]["spec"]["containers"][0]["args"], json!(["-v"]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, why) in [
            ("run --replicas=2 --image=b", "the name must come first"),
            ("run a --replicas=2", "name the image"),
            ("run a --image=b --replicas=x", "--replicas=x: it must be a number"),
            ("run a --image=b --replicas", "--replicas needs a value"),
            ("run a --image=b --replicas=1 --env=x", "--env x: it must be KEY=VALUE"),
        ] {
            assert!(read(&words(line)).unwrap_err().contains(why), "{line}");
        }
    }
}
