//! Which requests are recorded, and how much of them: the rules of an audit.k8s.io/v1 `Policy` (pure).
//!
//! Sources: k8s.io/apiserver `pkg/audit/policy/checker.go`, `pkg/apis/audit/validation`.

use serde::Deserialize;
use serde_json::json;

use crate::api::names;
use crate::api::request::{Target, User};
use crate::api::status::FieldError;

/// How much of a request is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who did what when.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

impl Level {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// A moment of a request that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// It has come.
    RequestReceived,
    /// The answer of a long-running request begins.
    ResponseStarted,
    /// All of the answer is sent.
    ResponseComplete,
    /// Something broke.
    Panic,
}

impl Stage {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// The rules; the first that fits decides.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code)] // Known, but without a meaning.
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What is decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How much of it is recorded.
    pub level: Level,
    /// Moments that are not.
    pub omit_stages: Vec<Stage>,
    /// Whether `metadata.managedFields` of objects are left out.
    pub omit_managed_fields: bool,
}

/// A request as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks; nobody before it is known.
    pub user: Option<&'a User>,
    /// `get`, `create`, ..., or the method in lower case.
    pub verb: &'a str,
    /// The path.
    pub path: &'a str,
    /// The objects, when it is about objects.
    pub target: Option<&'a Target>,
}

impl Policy {
    /// Reads a policy in YAML.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("{} {} is not a Policy of audit.k8s.io/v1", policy.api_version, policy.kind));
        }
        let errors: Vec<String> = policy.errors().iter().map(ToString::to_string).collect();
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        if errors.is_empty() { Ok(policy) } else { Err(errors.join(", ")) }
    }

    fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, rule) in self.rules.iter().enumerate() {
            for (j, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
                let mut wrong = |why: &str| {
                    errors.push(FieldError::invalid(
                        format!("rules[{i}].nonResourceURLs[{j}]"),
                        &json!(url),
                        why,
                    ));
                };
                if !url.starts_with('/') {
                    wrong("non-resource URL rules must begin with a '/' character");
                }
                if url.find('*').is_some_and(|at| at + 1 < url.len()) {
                    wrong("non-resource URL wildcards '*' must be the final character of the rule");
                }
            }
            for of in &rule.resources {
                let at = format!("rules[{i}].resources");
                if !of.group.is_empty() && of.group != "*" {
                    let wrong = names::dns_subdomain(&of.group);
                    errors.extend(
                        wrong
                            .iter()
                            .map(|why| FieldError::invalid(format!("{at}.group"), &json!(of.group), why)),
                    );
                }
                if !of.resource_names.is_empty() && of.resources.is_empty() {
                    let why = "using resourceNames requires at least one resource";
                    let names = json!(of.resource_names);
                    errors.push(FieldError::invalid(format!("{at}.resourceNames"), &names, why));
                }
            }
            let of_objects = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_objects && !rule.non_resource_urls.is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                let urls = json!(rule.non_resource_urls);
                errors.push(FieldError::invalid(format!("rules[{i}].nonResourceURLs"), &urls, why));
            }
        }
        errors
    }

    /// What is to be recorded of a request.
    pub fn decide(&self, asked: &Asked<'_>) -> Decision {
        match self.rules.iter().find(|rule| rule.fits(asked)) {
            None => Decision {
                level: Level::None,
                omit_stages: self.omit_stages.clone(),
                omit_managed_fields: self.omit_managed_fields,
            },
            Some(rule) => Decision {
                level: rule.level,
                omit_stages: [self.omit_stages.as_slice(), &rule.omit_stages].concat(),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            },
        }
    }
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == value);
        let name = asked.user.map(|user| user.name.as_str());
        if !self.users.is_empty() && !name.is_some_and(|name| has(&self.users, name)) {
            return false;
        }
        let groups = asked.user.map(|user| user.groups.as_slice()).unwrap_or_default();
        if !self.user_groups.is_empty() && !groups.iter().any(|group| has(&self.user_groups, group)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.target.is_some_and(|target| self.fits_target(target));
        }
        if !self.non_resource_urls.is_empty() {
            let fits = |url: &String| match url.strip_suffix('*') {
                Some(begin) => asked.path.starts_with(begin),
                None => url == asked.path,
            };
            return asked.target.is_none() && self.non_resource_urls.iter().any(fits);
        }
        true
    }

    fn fits_target(&self, target: &Target) -> bool {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        if !self.namespaces.is_empty() && !self.namespaces.contains(&text(&target.namespace)) {
            return false;
        }
        let (name, sub) = (text(&target.name), text(&target.subresource));
        let whole = match sub.as_str() {
            "" => target.resource.clone(),
            sub => format!("{}/{sub}", target.resource),
        };
        let fits = |of: &GroupResources| {
            let resource = |resource: &String| {
                *resource == whole
                    || resource == "*"
                    || (!sub.is_empty() && resource.strip_prefix("*/") == Some(&sub))
                    || resource.strip_suffix("/*") == Some(&target.resource)
            };
            (of.group == target.group || of.group == "*")
                && (of.resources.is_empty()
                    || ((of.resource_names.is_empty() || of.resource_names.contains(&name))
                        && of.resources.iter().any(resource)))
        };
        self.resources.is_empty() || self.resources.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n"))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let user = User { groups: vec!["dev".into()], ..User::component("jane") };
        let target = |group: &str, resource: &str, namespace: &str, name: &str, subresource: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Target {
                group: group.into(),
                version: "v1".into(),
                resource: resource.into(),
                namespace: some(namespace),
                name: some(name),
                subresource: some(subresource),
            }
        };
        let pod = target("", "pods", "default", "web", "");
        let log = target("", "pods", "default", "web", "log");
        let node = target("", "nodes", "", "n", "");
        for (rules, target, fits) in [
            ("[{level: Metadata}]", Some(&pod), true),
            ("[{level: Metadata, users: [jane]}]", Some(&pod), true),
            ("[{level: Metadata, users: [joe]}]", Some(&pod), false),
            ("[{level: Metadata, userGroups: [ops, dev]}]", Some(&pod), true),
            ("[{level: Metadata, verbs: [create]}]", Some(&pod), false),
            ("[{level: Metadata, resources: [{group: '', resources: [pods]}]}]", Some(&pod), true),
            ("[{level: Metadata, resources: [{group: '', resources: [pods]}]}]", Some(&log), false),
            ("[{level: Metadata, resources: [{group: '', resources: [pods/log]}]}]", Some(&log), true),
            ("[{level: Metadata, resources: [{group: '', resources: ['pods/*']}]}]", Some(&log), true),
            ("[{level: Metadata, resources: [{group: '', resources: ['*/log']}]}]", Some(&log), true),
            ("[{level: Metadata, resources: [{group: '*', resources: ['*']}]}]", Some(&log), true),
            ("[{level: Metadata, resources: [{group: apps}]}]", Some(&pod), false),
            (
                "[{level: Metadata, resources: [{group: '', resources: [pods], resourceNames: [db]}]}]",
                Some(&pod),
                false,
            ),
            ("[{level: Metadata, namespaces: [default]}]", Some(&pod), true),
            ("[{level: Metadata, namespaces: ['']}]", Some(&node), true),
            ("[{level: Metadata, namespaces: ['']}]", Some(&pod), false),
            ("[{level: Metadata, nonResourceURLs: ['/health*']}]", None, true),
            ("[{level: Metadata, nonResourceURLs: [/metrics]}]", None, false),
            ("[{level: Metadata, nonResourceURLs: ['*']}]", Some(&pod), false),
            ("[{level: None, users: [jane]}, {level: Metadata}]", Some(&pod), false),
        ] {
            let asked = Asked { user: Some(&user), verb: "get", path: "/healthz", target };
            let level = policy(rules).unwrap().decide(&asked).level;
            assert_eq!(level != Level::None, fits, "{rules} {target:?}");
        }
    }

    #[test]
    fn stages_add_up_and_managed_fields_are_overridden() {
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nomitManagedFields: true\n\
                    rules: [{level: Request, omitStages: [ResponseStarted], omitManagedFields: false}]\n";
        let asked = Asked { user: None, verb: "get", path: "/", target: None };
        assert_eq!(
            Policy::parse(text).unwrap().decide(&asked),
            Decision {
                level: Level::Request,
                omit_stages: vec![Stage::RequestReceived, Stage::ResponseStarted],
                omit_managed_fields: false,
            }
        );
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (rules, why) in [
            ("[]", "loaded illegal policy with 0 rules"),
            ("[{level: Some}]", "unknown variant"),
            ("[{level: Metadata, user: [x]}]", "unknown field"),
            ("[{level: Metadata, nonResourceURLs: [x]}]", "must begin with a '/'"),
            ("[{level: Metadata, nonResourceURLs: ['/a*b']}]", "must be the final character"),
            ("[{level: Metadata, nonResourceURLs: [/a], namespaces: [b]}]", "cannot apply to both"),
            ("[{level: Metadata, resources: [{group: a/v1}]}]", "rules[0].resources.group"),
            (
                "[{level: Metadata, resources: [{group: a, resourceNames: [b]}]}]",
                "requires at least one resource",
            ),
        ] {
            let told = policy(rules).unwrap_err();
            assert!(told.contains(why), "{rules}: {told}");
        }
        assert!(Policy::parse("apiVersion: v1\nkind: Pod\n").is_err());
    }
}
