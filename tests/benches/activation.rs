//! How long a request waits for an instance that is not running, or frozen: through the whole product, beside what the
//! same start costs without it, in turns in one run.
//!
//! `./scripts/bench activation` prints a table and `name=value` lines last. Says what it could not measure.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "measures time and prints it")]

#[path = "../support/cluster.rs"]
mod cluster;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::Cluster;
use cluster::daemon::{Daemon, Docker, IMAGE, SOCKET, first_200, free_port, millis, quantile};

const PROCESS_ROUNDS: usize = 60;
const DOCKER_ROUNDS: usize = 20;

fn main() {
    if std::env::args().any(|argument| argument == "--backend") {
        backend();
    }
    let mut figures = Vec::new();
    process(&mut figures);
    across(&mut figures);
    frozen(&mut figures, "process");
    if !Docker::answers() {
        println!("NOT RUN: docker (nothing answers on {})", SOCKET);
    } else if let Err(error) = Docker::import() {
        println!("NOT RUN: docker (no image: {error})");
    } else {
        docker(&mut figures);
        frozen(&mut figures, "docker");
    }
    println!("\n{:<44} {:>9} {:>9} {:>5}", "time to first 200, ms", "p50", "p90", "n");
    for (name, values) in &mut figures {
        println!("{name:<44} {:>9.2} {:>9.2} {:>5}", quantile(values, 0.5), quantile(values, 0.9), values.len());
    }
    println!();
    let mut p50 = |name: &str| figures.iter_mut().find(|(n, _)| n == name).map(|(_, values)| quantile(values, 0.5));
    let print = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            println!("activation.{name}={value:.2}");
        }
    };
    let floor = p50("raw docker create + start");
    let ours = p50("docker, cold, through maelstromd");
    let here = p50(HERE);
    let away = p50(AWAY);
    let frozen_docker = p50("docker, frozen, through maelstromd");
    let frozen_process = p50("process, frozen, through maelstromd");
    print("process_floor_p50_ms", p50("raw spawn"));
    print("process_p50_ms", p50("process, cold, through maelstromd"));
    print("across_here_p50_ms", here);
    print("across_away_p50_ms", away);
    print("across_extra_p50_ms", away.zip(here).map(|(away, here)| away - here));
    print("docker_floor_p50_ms", floor);
    print("docker_p50_ms", ours);
    print("docker_over_floor_p50_ms", ours.zip(floor).map(|(ours, floor)| ours - floor));
    print("frozen_process_p50_ms", frozen_process);
    print("frozen_p50_ms", frozen_docker.or(frozen_process));
}

type Figures = Vec<(String, Vec<f64>)>;

fn process(figures: &mut Figures) {
    let daemon = Daemon::start("process");
    let this = std::env::current_exe().expect("a path").display().to_string();
    let command = serde_json::json!([this, "--backend"]);
    daemon.put(
        "components",
        "cold",
        &serde_json::json!({"command": command, "idle": {"freeze": "never", "stop": "100ms"}}).to_string(),
    );
    daemon.put("sources", "cold", r#"{"component":"cold","http":{"host":"cold.localhost"}}"#);
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=PROCESS_ROUNDS {
        let port = free_port();
        let start = Instant::now();
        let mut child = Command::new(&this)
            .arg("--backend")
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("the backend starts");
        first_200(SocketAddr::from(([127, 0, 0, 1], port)));
        let floor = start.elapsed();
        let _ = child.kill();
        let _ = child.wait();
        let start = Instant::now();
        assert_eq!(daemon.get("cold.localhost"), 200);
        let time = start.elapsed();
        daemon.until("the instance stops", || daemon.states().is_empty());
        // The first round warms caches.
        if round > 0 {
            raw.push(millis(floor));
            ours.push(millis(time));
        }
    }
    figures.push(("raw spawn".into(), raw));
    figures.push(("process, cold, through maelstromd".into(), ours));
}

const HERE: &str = "three nodes, cold, enters where it starts";
const AWAY: &str = "three nodes, cold, enters elsewhere";

/// What it costs a cold request to enter at a node that is not the one where the instance starts.
fn across(figures: &mut Figures) {
    let cluster = Cluster::start_with("across", 3, &["--log", "info"]);
    let this = std::env::current_exe().expect("a path").display().to_string();
    let component = serde_json::json!({
        "command": [this, "--backend"], "idle": {"freeze": "never", "stop": "100ms"}, "instances": {"max": 1},
    });
    cluster.nodes[0].put("components", "cold", &component.to_string());
    cluster.nodes[0].put("sources", "cold", r#"{"component":"cold","http":{"host":"cold.localhost"}}"#);
    cluster.everywhere("/v1/sources/cold", 200);
    // What nodes say of themselves is a moment old.
    std::thread::sleep(Duration::from_secs(1));
    let runs = |node: &Daemon| {
        let name = node.look("/v1/version")["node"].clone();
        node.instances().iter().any(|instance| instance["node"] == name)
    };
    let (mut here, mut away, mut other) = (Vec::new(), Vec::new(), 0);
    for round in 0..PROCESS_ROUNDS * 2 {
        let node = &cluster.nodes[round % 3];
        let start = Instant::now();
        assert_eq!(node.get("cold.localhost"), 200);
        let time = millis(start.elapsed());
        match cluster.nodes.iter().position(runs) {
            // The first of each warms caches.
            _ if round < 3 => {}
            Some(home) if home == round % 3 => here.push(time),
            Some(_) => away.push(time),
            // It was gone before it was looked for.
            None => other += 1,
        }
        cluster.until("the instance stops", || !cluster.nodes.iter().any(runs));
        // So do the nodes hear.
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("cold across nodes: {other} of {} rounds were not seen", PROCESS_ROUNDS * 2);
    figures.push((HERE.into(), here));
    figures.push((AWAY.into(), away));
}

fn docker(figures: &mut Figures) {
    let daemon = Daemon::start("docker");
    daemon.put(
        "components",
        "cold",
        &serde_json::json!({
            "image": IMAGE, "pull": "never", "port": 8080,
            "idle": {"freeze": "never", "stop": "100ms"}, "stop": {"signal": "SIGKILL"},
        })
        .to_string(),
    );
    daemon.put("sources", "cold", r#"{"component":"cold","http":{"host":"cold.localhost"}}"#);
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=DOCKER_ROUNDS {
        let floor = Docker::floor();
        let start = Instant::now();
        assert_eq!(daemon.get("cold.localhost"), 200);
        let time = start.elapsed();
        daemon.until("the instance stops", || daemon.states().is_empty());
        if round > 0 {
            raw.push(millis(floor));
            ours.push(millis(time));
        }
    }
    figures.push(("raw docker create + start".into(), raw));
    figures.push(("docker, cold, through maelstromd".into(), ours));
}

fn frozen(figures: &mut Figures, runtime: &str) {
    let daemon = Daemon::start(runtime);
    let this = std::env::current_exe().expect("a path").display().to_string();
    let mut document = match runtime {
        "docker" => serde_json::json!({"image": IMAGE, "pull": "never", "port": 8080, "stop": {"signal": "SIGKILL"}}),
        _ => serde_json::json!({"command": [this, "--backend"]}),
    };
    document["idle"] = serde_json::json!({"freeze": "100ms", "stop": "10m"});
    daemon.put("components", "frozen", &document.to_string());
    daemon.put("sources", "frozen", r#"{"component":"frozen","http":{"host":"frozen.localhost"}}"#);
    assert_eq!(daemon.get("frozen.localhost"), 200);
    let mut times = Vec::new();
    for _ in 0..PROCESS_ROUNDS {
        daemon.until("the instance freezes", || daemon.states() == ["frozen"]);
        // "frozen" is shown from the decision on; the freeze itself takes some milliseconds more.
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        assert_eq!(daemon.get("frozen.localhost"), 200);
        times.push(millis(start.elapsed()));
    }
    figures.push((format!("{runtime}, frozen, through maelstromd"), times));
}

/// The component: answers 200 to everything, one thread per connection, ready at once.
fn backend() -> ! {
    let port: u16 = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).expect("PORT");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        std::thread::spawn(move || {
            let Ok(mut out) = stream.try_clone() else { return };
            let _ = stream.set_nodelay(true);
            let mut lines = BufReader::new(stream).lines();
            while let Some(Ok(line)) = lines.next() {
                if line.is_empty() && out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
        });
    }
}
