//! The parameters of operations.

/// One parameter of a path or query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `string`, `integer`, `boolean`.
    pub(super) of: &'static str,
    /// `path` or `query`.
    pub(super) place: &'static str,
    pub(super) description: &'static str,
}

const fn text(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, of: "string", place: "query", description }
}

const fn number(name: &'static str, description: &'static str) -> Parameter {
    Parameter { of: "integer", ..text(name, description) }
}

const fn flag(name: &'static str, description: &'static str) -> Parameter {
    Parameter { of: "boolean", ..text(name, description) }
}

const fn path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { place: "path", ..text(name, description) }
}

pub(super) const NAME: Parameter = path("name", "The object's name.");
pub(super) const NAMESPACE: Parameter = path("namespace", "The object's namespace.");
/// What follows `proxy` in a path.
pub(super) const REST: Parameter = path("path", "The path at the other end.");
pub(super) const PRETTY: Parameter = text("pretty", "Whether the answer is indented for people.");

const DRY_RUN: Parameter = text("dryRun", "With the value All, nothing is kept of what is done.");
const FIELD_MANAGER: Parameter =
    text("fieldManager", "The name under which the fields of the write are owned.");
const FIELD_VALIDATION: Parameter =
    text("fieldValidation", "What becomes of fields that are unknown or said twice: Ignore, Warn or Strict.");

pub(super) const CREATE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
pub(super) const REPLACE: &[Parameter] = CREATE;
pub(super) const PATCH: &[Parameter] = &[
    DRY_RUN,
    FIELD_MANAGER,
    FIELD_VALIDATION,
    flag("force", "Whether an apply takes fields away from those who own them."),
];
pub(super) const DELETE: &[Parameter] = &[
    DRY_RUN,
    number("gracePeriodSeconds", "How long the object may take to end, in seconds; 0 is at once."),
    flag(
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "Whether an object that cannot be read is removed without what its removal would entail.",
    ),
    flag("orphanDependents", "Older than propagationPolicy: whether the objects that this one owns stay."),
    text(
        "propagationPolicy",
        "What becomes of the objects that this one owns: Orphan, Background or Foreground.",
    ),
];
const CONTINUE: Parameter = text("continue", "Where the part before this one said to go on.");
const FIELD_SELECTOR: Parameter = text("fieldSelector", "Fields that the objects must have.");
const LABEL_SELECTOR: Parameter = text("labelSelector", "Labels that the objects must have.");
const LIMIT: Parameter = number("limit", "How many objects there are in a part of a list.");
const RESOURCE_VERSION: Parameter = text("resourceVersion", "The version of the collection to start from.");
const RESOURCE_VERSION_MATCH: Parameter =
    text("resourceVersionMatch", "Whether that version is meant exactly, or any that is not older.");
const SEND_INITIAL_EVENTS: Parameter =
    flag("sendInitialEvents", "Whether a watch begins with the objects that there are.");
const SHARD_SELECTOR: Parameter = text("shardSelector", "The part of a divided collection that is meant.");
const TIMEOUT_SECONDS: Parameter = number("timeoutSeconds", "How long the request may take, in seconds.");
pub(super) const LIST: &[Parameter] = &[
    flag("allowWatchBookmarks", "Whether a watch tells of versions without a change."),
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
    flag("watch", "Whether changes are told from then on."),
];
/// What a delete of a collection knows beside [`DELETE`].
pub(super) const SELECT: &[Parameter] = &[
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
];

const CONTAINER: Parameter = text("container", "The container; it may be left out where there is one only.");
const STREAMS: [Parameter; 4] = [
    flag("stderr", "Whether the standard error is sent."),
    flag("stdin", "Whether the standard input is taken."),
    flag("stdout", "Whether the standard output is sent."),
    flag("tty", "Whether there is a terminal."),
];
const ATTACH: &[Parameter] = &[CONTAINER, STREAMS[0], STREAMS[1], STREAMS[2], STREAMS[3]];
const EXEC: &[Parameter] = &[
    text("command", "The program and its arguments, each in a parameter of its own."),
    CONTAINER,
    STREAMS[0],
    STREAMS[1],
    STREAMS[2],
    STREAMS[3],
];
pub(super) const LOG: &[Parameter] = &[
    CONTAINER,
    flag("follow", "Whether lines are sent as they come."),
    flag("insecureSkipTLSVerifyBackend", "Whether the node need not prove who it is."),
    number("limitBytes", "How many bytes are sent at most."),
    flag("previous", "Whether the container before the last restart is meant."),
    number("sinceSeconds", "How old the lines may be, in seconds."),
    text("stream", "Which of the streams are sent: All, Stdout or Stderr."),
    number("tailLines", "How many of the last lines are sent."),
    flag("timestamps", "Whether each line begins with its time."),
];

/// The parameters of a conversation, by the kind of its options.
pub(super) fn of_options(kind: &str) -> &'static [Parameter] {
    const PORTS: &[Parameter] = &[number("ports", "The ports, for clients that speak WebSocket.")];
    const PROXY: &[Parameter] = &[text("path", "The path at the other end.")];
    match kind {
        "PodAttachOptions" => ATTACH,
        "PodExecOptions" => EXEC,
        "PodPortForwardOptions" => PORTS,
        _ => PROXY,
    }
}
