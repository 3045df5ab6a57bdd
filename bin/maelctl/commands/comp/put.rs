//! `maelctl comp put`: creates or replaces a component.
//!
//! Turns flags into the document that the API takes; the node checks the values.

use std::io::Read as _;

use maelstrom::admin::client::Kind;

use crate::cli::{self, Format};
use crate::commands::comp::rollout;
use crate::context::Context;
use crate::document::{Document, PutFlags};
use crate::exit::{Exit, Failure};
use crate::names;
use crate::wait::For;

const EXAMPLES: &str = "\
Examples:
  maelctl comp put hello --image nginx:1 --port 80
  maelctl comp put hello --command './hello --fast' --min 1 --env LEVEL=info
  maelctl comp put hello -f hello.yml --memory 256MiB --wait
  maelctl comp put hello --image hello:2 --cfg DATABASE_URL --cfg TLS_KEY=/etc/tls.key
  maelctl comp show hello -o json | jq -c .definition | maelctl comp put twin -f -
";

/// The longest password in bytes; tokens of cloud registries have about 3 KiB.
const PASSWORD_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Its name: [a-z0-9][a-z0-9_-]*, at most 60 bytes
    #[arg(value_parser = cli::name, add = names::components())]
    name: String,
    #[command(flatten)]
    put: PutFlags,
    /// Until its instances run the new definition, or it has failed (then exit code 1)
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    #[command(flatten)]
    time: For,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    scale: Scale,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    container: Container,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What runs")]
struct What {
    /// Container image
    #[arg(long)]
    image: Option<String>,
    /// Program and its arguments; with --image it replaces the image's command
    #[arg(long, value_name = "'CMD ARGS'")]
    command: Option<String>,
    /// Working directory of a program
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Where it listens [default: 8080 for an image; a program is given one in PORT]
    #[arg(long)]
    port: Option<u16>,
    /// Environment; adds to that of the file
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = cli::pair)]
    env: Vec<(String, String)>,
    /// A setting it gets, as a variable or a file (see `maelctl cfg`); all of them replace those of the file
    #[arg(long = "cfg", value_name = "NAME[=VARIABLE|=/PATH|=./FILE]")]
    cfg: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How much")]
struct Scale {
    /// Instances kept even when idle
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Instances at most
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Instances at most on one node
    #[arg(long, value_name = "N")]
    per_node: Option<u32>,
    /// One instance at most: best-effort, or strict: never twice, whatever happens
    #[arg(long, value_name = "KIND")]
    singleton: Option<String>,
    /// Events that one instance is given at once
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Events per instance at which another is added
    #[arg(long, value_name = "N")]
    concurrency_target: Option<u32>,
    /// Memory set aside for an instance, such as 128MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory beyond which an instance is killed
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,
    /// Processor cores, such as 0.5 or 500m
    #[arg(long, value_name = "CORES")]
    cpu: Option<String>,
    /// Events that may wait
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// The largest request body, or unlimited
    #[arg(long, value_name = "SIZE")]
    max_body: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How it lives")]
struct Life {
    /// Stop an instance after this long without an event
    #[arg(long, value_name = "DURATION")]
    idle: Option<String>,
    /// Freeze an instance after this long without an event, or never
    #[arg(long, value_name = "DURATION")]
    freeze_after: Option<String>,
    /// From the start to readiness
    #[arg(long, value_name = "DURATION")]
    start_timeout: Option<String>,
    /// From an event to the head of its answer, waiting and starting included
    #[arg(long, value_name = "DURATION")]
    request_timeout: Option<String>,
    /// GET of this path must answer 2xx or 3xx [default: an accepted connection is enough]
    #[arg(long, value_name = "PATH")]
    health_path: Option<String>,
    /// Between two checks
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// For one check
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Failed checks in a row that replace an instance
    #[arg(long, value_name = "N")]
    health_failures: Option<u32>,
    /// When it changes: start-first or stop-first
    #[arg(long, value_name = "ORDER")]
    restart: Option<String>,
    /// Over the nodes: parallel, series, or series-first: one, then all others
    #[arg(long, value_name = "ORDER")]
    rollout_order: Option<String>,
    /// Whether a new definition that fails is taken back: true or false
    #[arg(long, value_name = "BOOL")]
    rollback: Option<String>,
    /// From the first start of a new definition until it is ready; then it has failed
    #[arg(long, value_name = "DURATION")]
    rollout_deadline: Option<String>,
    /// Asks an instance to stop, such as SIGTERM
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// From that signal to the kill
    #[arg(long, value_name = "DURATION")]
    stop_grace: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Containers")]
struct Container {
    /// Replaces the image's entrypoint
    #[arg(long, value_name = "'CMD ARGS'")]
    entrypoint: Option<String>,
    /// When to fetch the image: always, missing or never
    #[arg(long, value_name = "WHEN")]
    pull: Option<String>,
    /// Login of the registry
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password of the registry from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Mount; all of them replace those of the file
    #[arg(long = "volume", short, value_name = "SRC:DST[:ro]")]
    volumes: Vec<String>,
    /// Container network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Log driver of the container runtime
    #[arg(long, value_name = "NAME")]
    log_driver: Option<String>,
    /// Option of the log driver
    #[arg(long = "log-opt", value_name = "NAME=VALUE", value_parser = cli::pair)]
    log_options: Vec<(String, String)>,
    /// Label; adds to those of the file
    #[arg(long = "label", short, value_name = "NAME=VALUE", value_parser = cli::pair)]
    labels: Vec<(String, String)>,
    /// What a node must be to run it, by its labels: zone=a or disk!=hdd; all of them replace those of the file
    #[arg(long = "constraint", value_name = "CONDITION")]
    constraints: Vec<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (name, dry_run, expect) = (args.name.clone(), args.put.dry_run, args.put.expect());
    let wait = args.wait.then_some(args.time);
    let document = document(args)?;
    if document.is_empty() {
        return Err(Failure::usage("nothing says what runs")
            .hint("give --image IMAGE, --command 'CMD ARGS' or -f FILE; `maelctl comp put --help` has examples"));
    }
    let answer = context.client.put(Kind::Component, &name, &document.into_value(), &expect, dry_run).await;
    let Some(time) = wait else { return context.put("component", answer, dry_run) };
    // Scripts get one document, which says how it ended.
    match context.format {
        Format::Table | Format::Wide | Format::Name => context.put("component", answer, dry_run)?,
        Format::Json | Format::Yaml => drop(answer?),
    }
    rollout::wait(&name, time, context).await
}

fn document(args: Args) -> Result<Document, Failure> {
    let mut doc = args.put.document()?;
    args.what.apply(&mut doc);
    args.scale.apply(&mut doc);
    args.life.apply(&mut doc);
    if args.container.password_stdin {
        if args.put.reads_stdin() {
            return Err(
                Failure::usage("both --password-stdin and -f - read stdin").hint("put the definition in a file")
            );
        }
        doc.set("credentials.password", Some(password()?));
        // Written inside the image's object they would be given twice.
        doc.remove("image.password");
    }
    args.container.apply(&mut doc);
    Ok(doc)
}

impl What {
    fn apply(self, doc: &mut Document) {
        match doc.has("image") {
            true => doc.set("image.reference", self.image),
            false => doc.set("image", self.image),
        }
        doc.set("command", self.command);
        doc.set("cwd", self.cwd);
        doc.set("port", self.port);
        doc.pairs("env", self.env);
        doc.set("cfg", (!self.cfg.is_empty()).then_some(self.cfg));
    }
}

impl Scale {
    fn apply(self, doc: &mut Document) {
        // A file may have them at the top, where they would be given twice.
        if self.min.is_some() {
            doc.remove("min");
        }
        if self.max.is_some() {
            doc.remove("max");
        }
        doc.set("instances.min", self.min);
        doc.set("instances.max", self.max);
        doc.set("instances.per_node", self.per_node);
        doc.set("singleton", self.singleton);
        doc.set("concurrency.limit", self.concurrency);
        doc.set("concurrency.target", self.concurrency_target);
        doc.set("memory.reserve", self.memory);
        doc.set("memory.limit", self.memory_limit);
        doc.set("cpu", self.cpu);
        doc.set("queue", self.queue);
        doc.set("max_body", self.max_body);
    }
}

impl Life {
    fn apply(self, doc: &mut Document) {
        doc.set("idle.stop", self.idle);
        doc.set("idle.freeze", self.freeze_after);
        doc.set("start_timeout", self.start_timeout);
        doc.set("request_timeout", self.request_timeout);
        doc.set("health.path", self.health_path);
        doc.set("health.interval", self.health_interval);
        doc.set("health.timeout", self.health_timeout);
        doc.set("health.failures", self.health_failures);
        doc.set("restart", self.restart);
        doc.set("rollout.order", self.rollout_order);
        doc.set("rollout.rollback", self.rollback);
        doc.set("rollout.deadline", self.rollout_deadline);
        doc.set("stop.signal", self.stop_signal);
        doc.set("stop.grace", self.stop_grace);
    }
}

impl Container {
    fn apply(self, doc: &mut Document) {
        doc.set("entrypoint", self.entrypoint);
        if self.pull.is_some() {
            doc.remove("image.pull");
        }
        doc.set("pull", self.pull);
        if self.username.is_some() {
            doc.remove("image.username");
        }
        doc.set("credentials.username", self.username);
        doc.set("volumes", (!self.volumes.is_empty()).then_some(self.volumes));
        doc.set("network", self.network);
        doc.set("log.driver", self.log_driver);
        doc.pairs("log.options", self.log_options);
        doc.pairs("labels", self.labels);
        doc.set("constraints", (!self.constraints.is_empty()).then_some(self.constraints));
    }
}

fn password() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Failure, format!("cannot read the password from stdin: {error}")))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::usage("stdin has no password").hint("echo \"$PASSWORD\" | maelctl comp put ..."));
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use maelstrom::id::ComponentName;
    use maelstrom::model::Component;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_flag_ends_in_a_field_that_a_component_has() {
        let line = "put api --image nginx:1 --command x --port 80 --env A=1 --cfg B --min 1 --max 1 --per-node 2 \
                    --singleton strict --concurrency 10 --concurrency-target 8 --memory 64MiB --memory-limit 128MiB --cpu 0.5 --queue 5 \
                    --max-body 1MiB --idle 5m --freeze-after never --start-timeout 10s --request-timeout 20s \
                    --health-path /h --health-interval 5s --health-timeout 1s --health-failures 3 \
                    --restart stop-first --rollout-order series --rollback false --rollout-deadline 2m \
                    --stop-signal SIGINT --stop-grace 3s --entrypoint /bin/x --pull always \
                    --volume /a:/b:ro --network n --log-driver local --log-opt max-size=1m --label a=b --constraint zone=a";
        let args = Line::try_parse_from(line.split_whitespace()).expect("flags").args;
        let doc = document(args).expect("a document").into_value();
        let name: ComponentName = "api".parse().expect("a name");
        let component = Component::parse(&name, &doc).expect("a component");
        assert_eq!(component.to_doc()["instances"], serde_json::json!({"min": 1, "max": 1, "per_node": 2}));
        assert_eq!(component.to_doc()["memory"]["limit"], "128MiB");
        assert_eq!(component.to_doc()["stop"], serde_json::json!({"signal": "SIGINT", "grace": "3s"}));
        // All fields but those of programs and logins were set.
        for (path, fields) in Component::FIELDS {
            for field in fields.iter().filter(|_| path.is_empty()) {
                let set = doc.get(field).is_some();
                assert!(set || ["credentials", "cwd", "min", "max", "pinned"].contains(field), "no flag sets {field}");
            }
        }
    }
}
