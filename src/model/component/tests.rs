//! Components from documents and back. Knows nothing of other parts of the crate.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::cfg::Delivery;
use crate::model::constraint::Constraint;
use crate::model::{DOCUMENT_MAX, FieldError, Invalid};

fn name() -> ComponentName {
    "api".parse().expect("a name")
}

fn parse(doc: &Value) -> Result<Component, Invalid> {
    Component::parse(&name(), doc)
}

fn good(doc: Value) -> Component {
    parse(&doc).unwrap_or_else(|errors| panic!("{doc}: {errors}"))
}

/// The only error of a document.
fn refused(doc: Value) -> FieldError {
    let Invalid(mut errors) = parse(&doc).expect_err(&doc.to_string());
    assert_eq!(errors.len(), 1, "{doc}: {errors:?}");
    errors.remove(0)
}

/// An image with one more field.
fn image_with(field: &str, value: Value) -> Value {
    json!({"image": "nginx:1", field: value})
}

#[test]
fn an_image_alone_gets_every_default() {
    let component = good(json!({"image": "nginx"}));
    assert_eq!(
        component.to_doc(),
        json!({
            "image": "nginx:latest", "pull": "missing", "credentials": null, "entrypoint": [], "command": [],
            "volumes": [], "network": null, "log": {"driver": null, "options": {}},
            "port": 8080, "env": {}, "cfg": [], "memory": {"reserve": "128MiB", "limit": null}, "cpu": null,
            "concurrency": {"limit": 80, "target": 56}, "instances": {"min": 0, "max": 10, "per_node": 10},
            "idle": {"freeze": "30s", "stop": "5m"}, "start_timeout": "1m", "request_timeout": "5m",
            "queue": 4096, "max_body": "64MiB",
            "health": {"path": null, "interval": "10s", "timeout": "5s", "failures": 3},
            "singleton": null, "restart": "start-first",
            "rollout": {"order": "series-first", "rollback": true, "deadline": "10m"}, "constraints": [], "labels": {}, "stop": {"signal": "SIGTERM", "grace": "10s"},
        })
    );
}

#[test]
fn a_program_gets_a_free_port_for_each_instance() {
    let component = good(json!({"command": "server --name 'my api'"}));
    let argv = ["server", "--name", "my api"].map(str::to_owned).to_vec();
    assert_eq!(component.workload, Workload::Command(Command { argv, cwd: None }));
    assert_eq!(component.port, None);
}

#[test]
fn a_program_with_a_fixed_port_is_never_started_beside_itself() {
    let component = good(json!({"command": ["server"], "port": 9000}));
    assert_eq!((component.max_per_node.get(), component.restart_order), (1, RestartOrder::StopFirst));
    let side_by_side = json!({"command": ["server"], "port": 9000, "instances": {"per_node": 2}});
    assert!(refused(side_by_side).problem.contains("side by side on port 9000"));
    let overlap = json!({"command": ["server"], "port": 9000, "restart": "start-first"});
    assert_eq!(refused(overlap).field, "restart");
}

#[test]
fn a_singleton_has_one_instance_and_a_strict_one_is_replaced_old_one_first() {
    let best = good(json!({"command": ["server"], "singleton": "best-effort"}));
    assert_eq!((best.singleton, best.max_instances.get()), (Singleton::BestEffort, 1));
    assert_eq!(best.restart_order, RestartOrder::StartFirst);
    let strict = good(json!({"command": ["server"], "singleton": "Strict", "min": 1}));
    assert_eq!((strict.singleton, strict.min_instances, strict.max_instances.get()), (Singleton::Strict, 1, 1));
    assert_eq!(strict.restart_order, RestartOrder::StopFirst);
    let many = refused(json!({"command": ["server"], "singleton": "strict", "max": 2}));
    assert!(many.field == "max" && many.problem.contains("one instance at most"), "{many:?}");
    let kept = refused(json!({"command": ["server"], "singleton": "best-effort", "instances": {"min": 2}}));
    assert!(kept.field == "instances.min" && kept.allowed.contains("no singleton"), "{kept:?}");
    let overlap = refused(json!({"command": ["server"], "singleton": "strict", "restart": "start-first"}));
    assert!(overlap.field == "restart" && overlap.allowed == "stop-first", "{overlap:?}");
}

#[test]
fn the_spelling_does_not_matter() {
    let long = json!({
        "image": {"reference": "nginx:latest", "pull": "Always", "username": "u", "password": "p"},
        "env": {"A": "1", "B": "true"}, "memory": {"reserve": "131072KiB"}, "cpu": "500m",
        "concurrency": {"limit": 50.0, "target": "35"}, "instances": {"min": 1, "max": 3},
        "idle": {"stop": "300s"}, "health": {"path": "/up"}, "stop": {"signal": "int"},
        "volumes": [{"source": "/a/", "target": "//b/", "read_only": true}, {"source": "v", "target": "/c"}],
        "command": ["run", "it"], "queue": null,
    });
    let short = json!({
        "image": "nginx", "pull": "always", "credentials": {"username": "u", "password": "p"},
        "env": ["A=1", "B=true"], "memory": "128MiB", "cpu": 0.5, "concurrency": 50, "min": 1, "max": 3,
        "idle": "5m", "health": "/up", "stop": {"signal": "SIGINT"}, "volumes": ["/a:/b:ro", "v:/c"],
        "command": "run it",
    });
    assert_eq!(good(long.clone()), good(short));
    assert_eq!(good(long.clone()).to_doc(), good(good(long).to_doc()).to_doc());
}

#[test]
fn numbers_that_were_not_given_follow_those_that_were() {
    assert_eq!(good(image_with("min", json!(20))).max_instances.get(), 20);
    assert_eq!(good(image_with("max", json!(3))).max_per_node.get(), 3);
    assert_eq!(good(image_with("concurrency", json!(1))).concurrency_target.get(), 1);
    assert_eq!(good(image_with("memory", json!({"limit": "64MiB"}))).memory_reserve, 64 << 20);
    assert_eq!(good(image_with("idle", json!("20s"))).freeze_after, None);
    assert_eq!(good(image_with("idle", json!({"freeze": "never"}))).freeze_after, None);
    assert_eq!(good(image_with("max_body", json!("unlimited"))).max_body, None);
}

#[test]
fn each_refusal_names_its_field_its_value_and_what_is_allowed() {
    for (field, value, at, shown, problem) in [
        ("image", json!("Nginx:"), "image", "\"Nginx:\"", "tag"),
        ("image", json!({"pull": "never"}), "image.reference", "", "missing"),
        ("pull", json!("sometimes"), "pull", "\"sometimes\"", "choice"),
        ("cwd", json!("/srv"), "cwd", "\"/srv\"", "belongs to a program"),
        ("command", json!("a | b"), "command", "\"a | b\"", "outside of quotes"),
        ("command", json!(""), "command", "\"\"", "empty"),
        ("entrypoint", json!([{}]), "entrypoint[0]", "an object of 0", "not a text"),
        ("port", json!(0), "port", "0", "out of range"),
        ("port", json!(65536), "port", "65536", "out of range"),
        ("port", json!("80/tcp"), "port", "\"80/tcp\"", "whole number"),
        ("env", json!("A=1"), "env", "***", "not a list"),
        ("env", json!(["A"]), "env[0]", "***", "no ="),
        ("env", json!(["A=1", "A=2"]), "env[1]", "\"A\"", "twice"),
        ("env", json!({"1A": "x"}), "env.1A", "\"1A\"", "not the name"),
        ("env", json!({"MAELSTROM_X": "x"}), "env.MAELSTROM_X", "\"MAELSTROM_X\"", "sets itself"),
        ("env", json!({"A": null}), "env.A", "***", "not a text"),
        ("env", json!({"A": "a\u{0}b"}), "env.A", "***", "zero byte"),
        ("cfg", json!("A"), "cfg", "\"A\"", "not a list"),
        ("cfg", json!(["1A"]), "cfg[0]", "\"1A\"", "not the name"),
        ("cfg", json!(["A", "B=A"]), "cfg", "a list of 2", "variable A a second time"),
        ("cfg", json!(["A=/x", "B=/x"]), "cfg", "a list of 2", "second thing at /x"),
        ("cfg", json!([{"env": "A"}]), "cfg[0].name", "", "missing"),
        ("cfg", json!([{"name": "A", "file": "a/b"}]), "cfg[0].file", "\"a/b\"", "not a path"),
        ("cfg", json!([{"name": "A", "flie": "a"}]), "cfg[0].flie", "\"flie\"", "did you mean file?"),
        ("memory", json!("128M"), "memory", "\"128M\"", "1000 or by 1024"),
        ("memory", json!(128), "memory", "128", "bare number counts bytes"),
        ("memory", json!({"limit": "5MiB"}), "memory.limit", "\"5MiB\"", "too small"),
        (
            "memory",
            json!({"reserve": "2GiB", "limit": "1GiB"}),
            "memory.limit",
            "\"1GiB\"",
            "below memory.reserve 2GiB",
        ),
        ("cpu", json!(0), "cpu", "0", "share"),
        ("cpu", json!(-1), "cpu", "-1", "share"),
        ("concurrency", json!(0), "concurrency", "0", "out of range"),
        ("concurrency", json!({"limit": 5, "target": 6}), "concurrency.target", "6", "above concurrency.limit 5"),
        ("instances", json!({"min": 5, "max": 4}), "instances.max", "4", "below the minimum of 5"),
        ("instances", json!({"per_node": 0}), "instances.per_node", "0", "out of range"),
        ("max", json!(0), "max", "0", "out of range"),
        ("singleton", json!("strickt"), "singleton", "\"strickt\"", "did you mean strict?"),
        ("idle", json!({"freeze": "5m"}), "idle.freeze", "\"5m\"", "not below idle.stop 5m"),
        ("idle", json!(["5m"]), "idle", "a list of 1", "not a text"),
        ("start_timeout", json!("1ms"), "start_timeout", "\"1ms\"", "too short"),
        ("request_timeout", json!("25h"), "request_timeout", "\"25h\"", "too long"),
        ("queue", json!(0), "queue", "0", "no event wait"),
        ("max_body", json!("lots"), "max_body", "\"lots\"", "amount of bytes"),
        ("health", json!("up"), "health", "\"up\"", "start with /"),
        ("health", json!({"interval": "5 parsecs"}), "health.interval", "\"5 parsecs\"", "not a duration"),
        ("health", json!({"failures": 0}), "health.failures", "0", "out of range"),
        ("restart", json!("stopfirst"), "restart", "\"stopfirst\"", "did you mean stop-first?"),
        ("volumes", json!(["/a"]), "volumes[0]", "\"/a\"", "not a volume"),
        ("volumes", json!(["./a:/b"]), "volumes[0]", "\"./a:/b\"", "not absolute"),
        ("volumes", json!(["a:b"]), "volumes[0]", "\"a:b\"", "target that is not absolute"),
        ("volumes", json!(["a:/"]), "volumes[0]", "\"a:/\"", "root"),
        ("volumes", json!(["a:/b", "c:/b/"]), "volumes[1]", "\"c:/b/\"", "second time"),
        ("volumes", json!([{"target": "/b"}]), "volumes[0].source", "", "missing"),
        ("volumes", json!([{"source": "a"}]), "volumes[0].target", "", "missing"),
        ("volumes", json!([{"type": "tmpfs", "source": "a", "target": "/b"}]), "volumes[0].source", "\"a\"", "tmpfs"),
        ("network", json!("a b"), "network", "\"a b\"", "not a name"),
        ("log", json!("json-file"), "log", "\"json-file\"", "not an object"),
        ("log", json!({"options": {"a b": 1}}), "log.options.a b", "\"a b\"", "not a key"),
        ("labels", json!({"Maelstrom.x": "1"}), "labels.Maelstrom.x", "\"Maelstrom.x\"", "sets itself"),
        ("stop", json!({"signal": "SIGFOO"}), "stop.signal", "\"SIGFOO\"", "not a signal"),
        ("stop", json!({"grace": "2h"}), "stop.grace", "\"2h\"", "too long"),
        ("helth", json!("/"), "helth", "\"helth\"", "did you mean health?"),
        ("environment", json!({}), "environment", "\"environment\"", "did you mean env?"),
    ] {
        let error = refused(if field == "image" { json!({"image": value}) } else { image_with(field, value) });
        // The values of options are hidden, and the whole of a small object is hidden behind its size.
        assert_eq!((error.field.as_str(), error.value.as_str()), (at, shown), "{error}");
        assert!(error.problem.contains(problem), "{error}");
        assert!(!error.allowed.is_empty(), "{error}");
    }
}

#[test]
fn what_belongs_to_an_image_is_refused_for_a_program() {
    for (field, value) in [
        ("pull", json!("never")),
        ("credentials", json!({"username": "u", "password": "p"})),
        ("entrypoint", json!(["x"])),
        ("volumes", json!(["/a:/b"])),
        ("network", json!("n")),
        ("log", json!({"driver": "journald"})),
    ] {
        let error = refused(json!({"command": "server", field: value}));
        assert_eq!(error.field, field);
        assert!(error.problem.contains("belongs to"), "{error}");
    }
    good(json!({"command": "server", "volumes": [], "log": {"options": {}}, "cwd": "/srv/"}));
    assert_eq!(refused(json!({"command": "server", "env": {"PORT": 1}})).field, "env.PORT");
    assert!(refused(json!({"command": []})).problem.contains("no program"));
    let file = refused(json!({"command": "server", "cfg": ["KEY=/etc/tls.key"]}));
    assert!(file.problem.contains("sees the files of the node") && file.allowed.contains("file: tls.key"), "{file}");
    assert!(refused(json!({})).problem.contains("missing, and so is command"));
    assert_eq!(refused(json!("nginx")).field, "document");
}

#[test]
fn a_setting_is_named_in_a_short_or_a_long_form_and_takes_no_place_twice() {
    let short = json!({"image": "x", "cfg": ["A", "B=C", "K=/etc/k", "L=./l"]});
    let long = json!({"image": "x", "cfg": [
        {"name": "A"}, {"name": "B", "env": "C"}, {"name": "K", "file": "/etc/k"}, {"name": "L", "file": "l"},
    ]});
    assert_eq!(good(short).cfg, good(long).cfg);
    let both = good(json!({"command": "x", "cfg": [{"name": "K", "file": "k", "env": "K_FILE"}]}));
    let wanted = Delivery::File { path: "k".into(), variable: Some("K_FILE".into()) };
    assert_eq!(both.cfg.iter().map(|one| &one.to).collect::<Vec<_>>(), [&wanted]);
    for (field, value) in [("env", json!({"A": 1})), ("volumes", json!(["/x:/etc/k"]))] {
        let doc = json!({"image": "x", "cfg": ["A", "K=/etc/k"], field: value});
        assert_eq!(refused(doc).field, "cfg");
    }
}

#[test]
fn all_errors_of_a_document_come_at_once() {
    let doc =
        json!({"image": "A", "port": 0, "prt": 1, "health": {"interval": "x", "timeout": "y"}, "min": 2, "max": 1});
    let fields: Vec<String> = parse(&doc).expect_err("errors").0.into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["prt", "image", "port", "max", "health.interval", "health.timeout"].map(str::to_owned));
}

#[test]
fn a_name_that_cannot_be_printed_is_shown_in_a_form_that_can() {
    assert_eq!(refused(image_with("", json!(1))).field, "\"\"");
    assert_eq!(refused(image_with("\u{1b}[2J", json!(1))).field, "\\u{1b}[2J");
}

#[test]
fn a_hostile_document_costs_a_bounded_list_of_errors() {
    let doc: serde_json::Map<String, Value> = (0..5_000).map(|n| (format!("x{n}"), json!(n))).collect();
    let errors = parse(&Value::Object(doc)).expect_err("errors").0;
    assert_eq!(errors.len(), 101);
    assert!(errors[100].problem.contains("4901 more"), "{}", errors[100]);
    let large: serde_json::Map<String, Value> = (0..4).map(|n| (format!("X{n}"), json!("y".repeat(100_000)))).collect();
    let error = refused(image_with("env", Value::Object(large)));
    assert!(error.allowed.contains(&DOCUMENT_MAX.to_string()), "{error}");
    assert_eq!(refused(image_with("env", json!({"X": "y".repeat(131_072)}))).field, "env.X");
}

#[test]
fn a_password_is_in_no_error_and_in_no_shown_document() {
    for doc in [
        json!({"image": "nginx", "credentials": "u:hunter2"}),
        json!({"image": "nginx", "credentials": {"password": "hunter2"}}),
        json!({"image": "nginx", "credentials": {"pasword": "hunter2"}}),
        json!({"image": "nginx", "credentials": {"username": "u", "password": ["hunter2"]}}),
        json!({"image": {"reference": "x", "password": "hunter2"}, "credentials": {"password": "hunter2"}}),
        json!({"command": "x", "credentials": "hunter2"}),
        json!({"image": "https://u:hunter2@host/image"}),
        json!({"image": "nginx", "env": "A=hunter2"}),
        json!({"image": "nginx", "env": {"1": "hunter2"}}),
        json!("hunter2"),
    ] {
        let errors = parse(&doc).expect_err("errors");
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }
    let component = good(json!({"image": "nginx", "credentials": {"username": "u", "password": "hunter2"}}));
    assert!(!component.redacted().to_string().contains("hunter2"));
    assert_eq!(component.redacted()["credentials"]["username"], "u");
    assert!(refused(component.redacted()).problem.contains("mask"));
}

#[test]
fn the_manual_names_every_field_and_default() {
    let manual = include_str!("../../../docs/components.md");
    for (object, names) in Component::FIELDS {
        for name in *names {
            let path = if object.is_empty() { (*name).to_owned() } else { format!("{object}.{name}") };
            assert!(manual.contains(&format!("| `{path}` |")), "docs/components.md has no row for {path}");
        }
    }
    let doc = good(json!({"image": "nginx"})).to_doc();
    for (path, pointer) in [
        ("port", "/port"),
        ("memory.reserve", "/memory/reserve"),
        ("concurrency.limit", "/concurrency/limit"),
        ("instances.min", "/instances/min"),
        ("instances.max", "/instances/max"),
        ("idle.freeze", "/idle/freeze"),
        ("idle.stop", "/idle/stop"),
        ("start_timeout", "/start_timeout"),
        ("request_timeout", "/request_timeout"),
        ("queue", "/queue"),
        ("max_body", "/max_body"),
        ("health.interval", "/health/interval"),
        ("health.timeout", "/health/timeout"),
        ("health.failures", "/health/failures"),
        ("restart", "/restart"),
        ("stop.signal", "/stop/signal"),
        ("stop.grace", "/stop/grace"),
    ] {
        let row = manual.lines().find(|line| line.starts_with(&format!("| `{path}` |"))).unwrap_or_default();
        let value = doc.pointer(pointer).map(|value| value.to_string().replace('"', "")).unwrap_or_default();
        assert!(row.split('|').nth(3).is_some_and(|cell| cell.contains(&format!("`{value}`"))), "{path}: {value}");
    }
}

/// Any JSON whose keys are often those of a component.
fn any_json() -> impl Strategy<Value = Value> {
    let names: Vec<&'static str> = Component::FIELDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["nginx:1", "5m", "128MiB", "/a", "a:/b", "never", "A=b", "***"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let key = prop_oneof![3 => prop::sample::select(names.clone()).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn at_least_one(range: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = NonZeroU32> {
    range.prop_map(|number| NonZeroU32::new(number).expect("not zero"))
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn pairs(key: &'static str) -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(key, "\\PC{0,12}", 0..4)
}

fn any_workload() -> impl Strategy<Value = Workload> {
    let reference = "([a-z]{1,8}\\.io(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,8}(/[a-z0-9]{1,8})?:[a-z0-9]{1,8}";
    let pull = prop::sample::select(vec![PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never]);
    let login = ("\\PC{1,8}", "\\PC{4,12}").prop_map(|(username, password)| Credentials { username, password });
    let words = || prop::collection::vec("\\PC{0,8}", 0..4);
    let image = (reference, words(), words(), pull, prop::option::of(login)).prop_map(
        |(reference, command, entrypoint, pull, credentials)| {
            Workload::Image(Image { reference, pinned: None, command, entrypoint, pull, credentials })
        },
    );
    let program = (prop::collection::vec("\\PC{1,8}", 1..4), prop::option::of("(/[a-z]{1,6}){1,3}"))
        .prop_map(|(argv, cwd)| Workload::Command(Command { argv, cwd }));
    prop_oneof![image, program]
}

fn any_volumes() -> impl Strategy<Value = Vec<Volume>> {
    let volume = prop_oneof![
        "(/[a-z]{1,4}){0,2}".prop_map(|source| (VolumeKind::Bind, if source.is_empty() { "/".into() } else { source })),
        "[A-Za-z0-9][a-z_.-]{0,6}".prop_map(|source| (VolumeKind::Volume, source)),
        Just((VolumeKind::Tmpfs, String::new())),
    ];
    let entry = (volume, any::<bool>());
    prop::collection::btree_map("(/[a-z]{1,4}){1,2}", entry, 0..4).prop_map(|volumes| {
        let mount = |(target, ((kind, source), read_only)): (String, _)| Volume { kind, source, target, read_only };
        volumes.into_iter().map(mount).collect()
    })
}

#[test]
fn a_pin_belongs_to_the_image_that_it_was_found_for() {
    let digest = format!("sha256:{}", "1".repeat(64));
    let image = |doc: Value| match good(doc).workload {
        Workload::Image(image) => image,
        Workload::Command(_) => panic!("an image was given"),
    };
    let pinned = image(json!({"image": "host:5000/app", "pinned": format!("host:5000/app:latest@{digest}")}));
    assert_eq!((pinned.exact(), pinned.pinned.as_ref()), (format!("host:5000/app@{digest}"), Some(&digest)));
    for reference in ["app:2".to_owned(), "other:1".to_owned(), format!("app@{digest}"), format!("app:1@{digest}")] {
        let other = image(json!({"image": reference, "pinned": format!("app:1@{digest}")}));
        assert_eq!((other.exact(), other.pinned), (other.reference, None));
    }
    let doc = json!({"image": "app:1", "pinned": format!("app:1@{digest}")});
    assert_eq!(good(good(doc.clone()).to_doc()), good(doc));
    assert_eq!(refused(json!({"image": "app:1", "pinned": "app:1"})).field, "pinned");
    assert_eq!(refused(json!({"command": "app", "pinned": "app:1"})).field, "pinned");
}

fn any_rollout() -> impl Strategy<Value = Rollout> {
    let orders = vec![RolloutOrder::Parallel, RolloutOrder::Series, RolloutOrder::SeriesFirst];
    let parts = (prop::sample::select(orders), any::<bool>(), millis(10..=86_400_000));
    parts.prop_map(|(order, rollback, deadline)| Rollout { order, rollback, deadline })
}

#[test]
fn a_rollout_is_one_node_first_and_taken_back_unless_said_otherwise() {
    let rollout = good(image_with("rollout", json!(null))).rollout;
    let deadline = Duration::from_secs(600);
    assert_eq!(rollout, Rollout { order: RolloutOrder::SeriesFirst, rollback: true, deadline });
    assert_eq!(good(image_with("rollout", json!("Parallel"))).rollout.order, RolloutOrder::Parallel);
    let said = json!({"order": "series", "rollback": "false", "deadline": "2m"});
    let deadline = Duration::from_secs(120);
    let expected = Rollout { order: RolloutOrder::Series, rollback: false, deadline };
    assert_eq!(good(image_with("rollout", said)).rollout, expected);
    for (value, field, allowed) in [
        (json!("serial"), "rollout", "parallel, series, series-first"),
        (json!({"order": "first"}), "rollout.order", "parallel, series, series-first"),
        (json!({"rollback": "maybe"}), "rollout.rollback", "true, false"),
        (json!({"deadline": "25h"}), "rollout.deadline", "10ms to 24h"),
        (json!({"orders": "series"}), "rollout.orders", "order, rollback, deadline"),
    ] {
        let refusal = refused(image_with("rollout", value));
        assert_eq!((refusal.field.as_str(), refusal.allowed.as_str()), (field, allowed));
    }
}

fn any_cfg() -> impl Strategy<Value = Vec<CfgUse>> {
    let path = prop_oneof!["(/[m-z]{1,4}){1,2}", "[m-z][a-z.-]{0,9}"];
    let to = prop_oneof![Just(None), (path, any::<bool>()).prop_map(Some)];
    // Variables that no environment has, and paths that no volume has.
    prop::collection::btree_map("M_[A-Z]{1,9}", ("[A-Za-z_][A-Z0-9_.-]{5,9}", to), 0..4).prop_map(|uses| {
        let one = |target: String, file: Option<(String, bool)>| match file {
            None => Delivery::Variable(target),
            Some((path, is_told)) => {
                let path = format!("{path}{}", target.to_lowercase());
                Delivery::File { path, variable: is_told.then_some(target) }
            }
        };
        let uses = uses.into_iter().map(|(target, (name, file))| (name, one(target, file)));
        uses.map(|(name, to)| CfgUse { name: name.parse().expect("a name"), to }).collect()
    })
}

prop_compose! {
    /// Any component that `parse` can give.
    fn any_component()(
        workload in any_workload(),
        (port, env, labels) in (1u16.., pairs("[A-LN-Z_][A-Z0-9_.-]{5,9}"), pairs("[a-l][a-z./-]{0,9}")),
        (reserve, extra, cpu) in (1u64 << 20..1 << 40, prop::option::of(6u64 << 20..1 << 40),
            prop::option::of(at_least_one(1..=4_096_000))),
        (target, above, min, more, per_node) in (1u32..1000, 0u32..1000, 0u32..100, 1u32..100, 1u32..200),
        (freeze, idle) in (prop::option::of(100u64..1 << 30), 100u64..1 << 30),
        (start, request, grace) in (millis(10..=86_400_000), millis(10..=86_400_000), millis(0..=3_600_000)),
        (queue_limit, max_body) in (1u32..=1_000_000, prop::option::of(any::<u64>().prop_map(|n| n >> 5))),
        (path, interval, timeout, failures) in (prop::option::of("/[a-z?=]{0,9}"), millis(100..=3_600_000),
            millis(10..=3_600_000), at_least_one(1..=1000)),
        (stop_first, single, signal) in (any::<bool>(), 0..5, prop::sample::select(defaults::STOP_SIGNALS.to_vec())),
        rollout in any_rollout(),
        (constraints, mut cfg) in (
            prop::collection::btree_set(("[a-z]{1,5}", "[a-z0-9.]{1,5}", any::<bool>()), 0..4),
            any_cfg(),
        ),
        (volumes, network, driver, options) in (any_volumes(), prop::option::of("[a-z][a-z0-9_.-]{0,9}"),
            prop::option::of("[a-z-]{1,9}"), pairs("[a-z.-]{1,9}")),
    ) -> Component {
        let is_image = matches!(workload, Workload::Image(_));
        let number = |n: u32| NonZeroU32::new(n).expect("not zero");
        let singleton = match single {
            0 => Singleton::Strict,
            1 => Singleton::BestEffort,
            _ => Singleton::No,
        };
        let (min, more) = if singleton == Singleton::No { (min, more) } else { (min.min(1), 1 - min.min(1)) };
        let stop_first = stop_first || singleton == Singleton::Strict;
        let freeze = freeze.filter(|freeze| *freeze < idle);
        let fixed = !is_image && port.is_multiple_of(2);
        cfg.retain(|one| is_image || !matches!(&one.to, Delivery::File { path, .. } if path.starts_with('/')));
        Component {
            name: "api".parse().expect("a name"),
            workload,
            port: if is_image || fixed { NonZeroU16::new(port) } else { None },
            env,
            cfg,
            memory_reserve: reserve,
            memory_limit: extra.map(|extra| reserve + extra),
            cpu,
            concurrency: number(target + above),
            concurrency_target: number(target),
            min_instances: min,
            max_instances: number(min + more),
            max_per_node: number(if fixed { 1 } else { per_node }),
            singleton,
            freeze_after: freeze.map(Duration::from_millis),
            idle_timeout: Duration::from_millis(idle),
            start_timeout: start,
            request_timeout: request,
            queue_limit,
            max_body,
            health: Health { path, interval, timeout, failures },
            restart_order: if stop_first || fixed { RestartOrder::StopFirst } else { RestartOrder::StartFirst },
            rollout,
            volumes: if is_image { volumes } else { Vec::new() },
            network: network.filter(|_| is_image),
            log: if is_image { LogOptions { driver, options } } else { LogOptions::default() },
            constraints: constraints.into_iter().map(|(key, value, equal)| Constraint { key, value, equal }).collect(),
            labels,
            stop: Stop { signal: signal.to_owned(), grace },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_json_makes_parse_panic_and_what_it_takes_is_canonical(doc in any_json()) {
        match parse(&doc) {
            Ok(component) => prop_assert_eq!(parse(&component.to_doc()), Ok(component)),
            Err(Invalid(errors)) => {
                prop_assert!(!errors.is_empty());
                prop_assert!(errors.iter().all(|e| !e.field.is_empty() && !e.problem.is_empty() && !e.allowed.is_empty()));
            }
        }
    }

    #[test]
    fn a_component_comes_back_from_its_document(component in any_component()) {
        prop_assert_eq!(parse(&component.to_doc()), Ok(component));
    }
}
