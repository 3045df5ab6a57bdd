//! The daemon's settings: flag over environment over file over default. Every error names the key, the value, what is
//! allowed, and where it came from.
//!
//! Reads one file; knows nothing of how flags are parsed: they arrive as [`Layer`]s.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::id::NodeName;
use crate::model::constraint::is_word;
use crate::model::{suggest, units};
use crate::telemetry::Format;
use crate::transport::token::{Token, TokenError};

/// How long requests may finish after a stop was asked for: what Docker and Kubernetes users know as grace.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The names of all keys, for suggestions.
const KEYS: [&str; 18] = [
    "data_dir",
    "http",
    "api",
    "peer",
    "advertise",
    "join",
    "token",
    "token_file",
    "name",
    "runtime",
    "docker_host",
    "memory",
    "labels",
    "on_shutdown",
    "drain_timeout",
    "log_format",
    "log",
    "config",
];

/// Which runtime runs components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// Docker if it answers, else processes.
    #[default]
    Auto,
    /// Containers.
    Docker,
    /// Programs on the node.
    Process,
}

/// What becomes of instances when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnShutdown {
    /// They are stopped: a stopped service leaves nothing running, which is what an administrator expects.
    #[default]
    Stop,
    /// They run on, and the next start adopts them: for upgrades of the daemon.
    Leave,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything of this node is kept.
    pub data_dir: PathBuf,
    /// Where requests are taken.
    pub http: SocketAddr,
    /// Where the admin API answers; loopback only.
    pub api: SocketAddr,
    /// Where peers are spoken to (UDP).
    pub peer: SocketAddr,
    /// Where peers reach this node, as `HOST:PORT`, if that is not `peer`: behind NAT, or with a wildcard address.
    pub advertise: Option<String>,
    /// Nodes to join, as `HOST:PORT`.
    pub join: Vec<String>,
    /// The join token, if one was given.
    pub token: Option<Token>,
    /// The name of this node.
    pub name: NodeName,
    /// Which runtime runs components.
    pub runtime: RuntimeChoice,
    /// Docker's address, as in `DOCKER_HOST`; its usual socket if none.
    pub docker_host: Option<String>,
    /// Memory in bytes that instances may set aside here in all; a share of the machine's if none.
    pub memory: Option<u64>,
    /// What components may ask of a node.
    pub labels: BTreeMap<String, String>,
    /// What becomes of instances when the daemon stops.
    pub on_shutdown: OnShutdown,
    /// How long requests may finish after a stop was asked for.
    pub drain_timeout: Duration,
    /// How log lines look.
    pub log_format: Format,
    /// Which log lines are written, as for `RUST_LOG`.
    pub log: String,
}

/// Settings from one origin, as text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of Config")]
pub struct Layer {
    pub data_dir: Option<String>,
    pub http: Option<String>,
    pub api: Option<String>,
    pub peer: Option<String>,
    pub advertise: Option<String>,
    /// Several are separated by commas.
    pub join: Option<String>,
    pub token: Option<String>,
    pub token_file: Option<String>,
    pub name: Option<String>,
    pub runtime: Option<String>,
    pub docker_host: Option<String>,
    pub memory: Option<String>,
    /// Several are separated by commas.
    pub labels: Option<String>,
    pub on_shutdown: Option<String>,
    pub drain_timeout: Option<String>,
    pub log_format: Option<String>,
    pub log: Option<String>,
}

/// A setting was refused. State: nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value cannot be used.
    #[error("{key} = {value:?} ({origin}): {problem}; allowed: {allowed}")]
    Value {
        /// Which setting.
        key: &'static str,
        /// As given.
        value: String,
        /// Flag, environment, file or default.
        origin: String,
        /// What is wrong.
        problem: String,
        /// What would be taken.
        allowed: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file {path}: {problem}{hint}")]
    Toml {
        /// Which.
        path: String,
        /// What is wrong, with line and column.
        problem: String,
        /// The nearest known key, if one is misspelt.
        hint: String,
    },
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin<'a> {
    Flag,
    Environment,
    File(&'a Path),
    Default,
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from a flag"),
            Self::Environment => f.write_str("from the environment"),
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl Layer {
    /// The layer of environment variables `MAEL_*`, through a function so that tests need not change the process's.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            data_dir: get("MAEL_DATA_DIR"),
            http: get("MAEL_HTTP"),
            api: get("MAEL_API"),
            peer: get("MAEL_PEER"),
            advertise: get("MAEL_ADVERTISE"),
            join: get("MAEL_JOIN"),
            token: get("MAEL_TOKEN"),
            token_file: get("MAEL_TOKEN_FILE"),
            name: get("MAEL_NAME"),
            runtime: get("MAEL_RUNTIME"),
            docker_host: get("MAEL_DOCKER_HOST").or_else(|| get("DOCKER_HOST")),
            memory: get("MAEL_MEMORY"),
            labels: get("MAEL_LABELS"),
            on_shutdown: get("MAEL_ON_SHUTDOWN"),
            drain_timeout: get("MAEL_DRAIN_TIMEOUT"),
            log_format: get("MAEL_LOG_FORMAT"),
            log: get("MAEL_LOG"),
        }
    }

    /// The layer of a TOML file.
    ///
    /// # Errors
    /// The file cannot be read, or has a key that is not known.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: shown.clone(), source })?;
        toml::from_str(&text).map_err(|error| {
            let problem = error.to_string();
            let unknown = problem.split('`').nth(1).filter(|_| problem.contains("unknown field"));
            let near = unknown.and_then(|key| suggest::nearest(key, KEYS));
            let hint = near.map(|near| format!("did you mean {near}?")).unwrap_or_default();
            ConfigError::Toml { path: shown, problem, hint }
        })
    }
}

impl Config {
    /// Puts the layers together.
    ///
    /// # Errors
    /// Names the first value that cannot be used, and where it came from.
    pub fn resolve(
        flags: &Layer,
        environment: &Layer,
        file: Option<(&Path, &Layer)>,
        default_dir: &Path,
        host_name: &str,
    ) -> Result<Self, ConfigError> {
        let pick = |get: fn(&Layer) -> Option<&String>, default: &str| -> (String, String) {
            let (origin, value) = if let Some(value) = get(flags) {
                (Origin::Flag, value.clone())
            } else if let Some(value) = get(environment) {
                (Origin::Environment, value.clone())
            } else if let Some((path, value)) = file.and_then(|(path, layer)| Some((path, get(layer)?))) {
                (Origin::File(path), value.clone())
            } else {
                (Origin::Default, default.to_owned())
            };
            (value, origin.to_string())
        };
        let refuse = |key, (value, origin): (String, String), problem: &str, allowed| ConfigError::Value {
            key,
            value,
            origin,
            problem: problem.to_owned(),
            allowed,
        };
        let address = |key, picked: (String, String)| -> Result<SocketAddr, ConfigError> {
            let parsed = picked.0.parse();
            parsed.map_err(|_| refuse(key, picked, "is not an address", "IP:PORT, such as 0.0.0.0:8008 or [::]:8008"))
        };
        let data_dir = pick(|layer| layer.data_dir.as_ref(), &default_dir.to_string_lossy());
        let http = address("http", pick(|layer| layer.http.as_ref(), "0.0.0.0:8008"))?;
        let picked = pick(|layer| layer.api.as_ref(), "127.0.0.1:8374");
        let api = address("api", picked.clone())?;
        if !api.ip().is_loopback() {
            let problem = "would offer the admin API to the network without TLS and a token, which is not built yet";
            return Err(refuse("api", picked, problem, "a loopback address, such as 127.0.0.1:8374 or [::1]:8374"));
        }
        let peer = address("peer", pick(|layer| layer.peer.as_ref(), "0.0.0.0:8374"))?;
        let picked = pick(|layer| layer.advertise.as_ref(), "");
        if !picked.0.is_empty() && !is_host_port(&picked.0) {
            return Err(refuse("advertise", picked, "is not an address", HOST_PORT));
        }
        let advertise = Some(picked.0).filter(|text| !text.is_empty());
        let picked = pick(|layer| layer.join.as_ref(), "");
        let mut join: Vec<String> = picked.0.split(',').map(|seed| seed.trim().to_owned()).collect();
        join.retain(|seed| !seed.is_empty());
        if let Some(bad) = join.iter().find(|seed| !is_host_port(seed)) {
            return Err(refuse("join", (bad.clone(), picked.1), "is not an address", HOST_PORT));
        }
        let token = read_token(pick(|layer| layer.token.as_ref(), ""), pick(|layer| layer.token_file.as_ref(), ""))?;
        let picked = pick(|layer| layer.name.as_ref(), &default_name(host_name));
        let parsed = picked.0.parse();
        let name = parsed.map_err(|error: crate::id::NameError| {
            refuse("name", picked, &error.to_string(), "[a-z0-9][a-z0-9_-]*, at most 60 bytes")
        })?;
        let picked = pick(|layer| layer.runtime.as_ref(), "auto");
        let runtime = match picked.0.as_str() {
            "auto" => RuntimeChoice::Auto,
            "docker" => RuntimeChoice::Docker,
            "process" => RuntimeChoice::Process,
            _ => return Err(refuse("runtime", picked, "is not a runtime", "auto, docker or process")),
        };
        let picked = pick(|layer| layer.memory.as_ref(), "");
        let memory = match picked.0.is_empty() {
            true => None,
            false => Some(units::parse_bytes(&picked.0).map_err(|error| {
                refuse("memory", picked, &error.problem, "what instances may set aside in all, such as 4GiB")
            })?),
        };
        let picked = pick(|layer| layer.labels.as_ref(), "");
        let mut labels = BTreeMap::new();
        for label in picked.0.split(',').map(str::trim).filter(|label| !label.is_empty()) {
            let pair = label.split_once('=').filter(|(key, value)| is_word(key) && is_word(value));
            let Some((key, value)) = pair else {
                let allowed = "KEY=VALUE, such as zone=a, of letters, digits and . _ / - each";
                return Err(refuse("labels", (label.to_owned(), picked.1), "is not a label", allowed));
            };
            labels.insert(key.to_owned(), value.to_owned());
        }
        let picked = pick(|layer| layer.on_shutdown.as_ref(), "stop");
        let on_shutdown = match picked.0.as_str() {
            "stop" => OnShutdown::Stop,
            "leave" => OnShutdown::Leave,
            _ => return Err(refuse("on_shutdown", picked, "is not known", "stop or leave")),
        };
        let picked = pick(|layer| layer.drain_timeout.as_ref(), &units::format_duration(DRAIN_TIMEOUT));
        let parsed = units::parse_duration(&picked.0);
        let drain_timeout =
            parsed.map_err(|error| refuse("drain_timeout", picked, &error.problem, "a duration, such as 30s or 2m"))?;
        let picked = pick(|layer| layer.log_format.as_ref(), "text");
        let parsed = picked.0.parse();
        let log_format = parsed.map_err(|_| refuse("log_format", picked, "is not known", "text or json"))?;
        let docker_host = pick(|layer| layer.docker_host.as_ref(), "").0;
        Ok(Self {
            data_dir: PathBuf::from(data_dir.0),
            http,
            api,
            peer,
            advertise,
            join,
            token,
            name,
            runtime,
            memory,
            labels,
            docker_host: (!docker_host.is_empty()).then_some(docker_host),
            on_shutdown,
            drain_timeout,
            log_format,
            log: pick(|layer| layer.log.as_ref(), "info").0,
        })
    }
}

/// What is taken for another node.
const HOST_PORT: &str = "HOST:PORT, such as 10.0.0.5:8374, node2.lan:8374 or [fd00::5]:8374";

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let sound = !host.is_empty() && !host.contains(char::is_whitespace) && (bracketed || !host.contains(':'));
    sound && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The token as given or from its file. A refusal does not repeat it: it is a secret.
fn read_token(given: (String, String), file: (String, String)) -> Result<Option<Token>, ConfigError> {
    let hidden = |key, origin, problem: String| ConfigError::Value {
        key,
        value: "(hidden)".to_owned(),
        origin,
        problem,
        allowed: "what `maelstromd token` prints on a node of the cluster",
    };
    if !given.0.is_empty() {
        let token = given.0.trim().parse();
        return token.map(Some).map_err(|error: TokenError| hidden("token", given.1, error.to_string()));
    }
    if file.0.is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file.0).map_err(|error| ConfigError::Value {
        key: "token_file",
        value: file.0.clone(),
        origin: file.1.clone(),
        problem: format!("cannot be read: {error}"),
        allowed: "a file with what `maelstromd token` prints",
    })?;
    let token = text.trim().parse();
    token.map(Some).map_err(|error: TokenError| hidden("token_file", file.1, error.to_string()))
}

/// A node name made of the machine's: what is not allowed becomes `-`.
fn default_name(host_name: &str) -> String {
    let host = host_name.trim().to_ascii_lowercase();
    let name: String = host
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' { c } else { '-' })
        .take(crate::id::NAME_MAX)
        .collect();
    let name = name.trim_start_matches(['-', '_']).to_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &Layer, environment: &Layer, file: &Layer) -> Result<Config, ConfigError> {
        Config::resolve(flags, environment, Some((Path::new("/etc/m.toml"), file)), Path::new("/data"), "My.Host")
    }

    fn http(value: &str) -> Layer {
        Layer { http: Some(value.to_owned()), ..Layer::default() }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let none = Layer::default();
        let (one, two, three) = (http("127.0.0.1:1"), http("127.0.0.1:2"), http("127.0.0.1:3"));
        for (flags, env, file, port) in
            [(&one, &two, &three, 1), (&none, &two, &three, 2), (&none, &none, &three, 3), (&none, &none, &none, 8008)]
        {
            assert_eq!(resolve(flags, env, file).expect("valid").http.port(), port);
        }
    }

    #[test]
    fn a_refused_value_names_its_key_its_origin_and_what_is_allowed() {
        let none = Layer::default();
        let error = resolve(&none, &none, &http("8008")).expect_err("not an address").to_string();
        for part in ["http", "\"8008\"", "/etc/m.toml", "IP:PORT"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_admin_api_is_not_offered_to_the_network() {
        let flags = Layer { api: Some("0.0.0.0:8374".to_owned()), ..Layer::default() };
        let error = resolve(&flags, &Layer::default(), &Layer::default()).expect_err("refused").to_string();
        assert!(error.contains("loopback"), "{error}");
    }

    #[test]
    fn the_default_name_is_made_of_the_machines_and_always_allowed() {
        assert_eq!(default_name("My.Host\n"), "my-host");
        assert_eq!(default_name("..."), "node");
        assert!(default_name(&"x".repeat(200)).parse::<NodeName>().is_ok());
    }

    #[test]
    fn a_misspelt_key_in_the_file_is_refused_with_a_proposal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.toml");
        std::fs::write(&path, "http = \"127.0.0.1:1\"\ndata_dri = \"/x\"\n").expect("written");
        let error = Layer::from_file(&path).expect_err("unknown key").to_string();
        assert!(error.contains("data_dri") && error.contains("did you mean data_dir?"), "{error}");
    }
}
