//! From a component to a command that can be started: what program, where, with which environment and port. Refuses,
//! with words for the user, what cannot work before anything is started.
//!
//! Starts nothing itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::failed;
use super::record::Home;
use crate::model::Component;
use crate::model::cfg::DIRECTORY;
use crate::model::component::{Command as Wanted, Workload};
use crate::runtime::files::Placed;
use crate::runtime::{InstanceSpec, Owner, RuntimeError};

/// What an instance inherits from the daemon. Everything else may hold secrets of the daemon (tokens, credentials of
/// SQS) or break programs (`LD_*`, `RUST_*`).
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Free ports that are tried until one is not ours already. The system gives ports at random from some 28,000, so
/// that even with a thousand instances eight misses in a row happen once in 10^11 starts.
const PORT_TRIES: usize = 8;

/// The command of a component.
pub(super) fn wanted(component: &Component) -> Result<&Wanted, RuntimeError> {
    match &component.workload {
        Workload::Command(command) => Ok(command),
        Workload::Image(image) => Err(failed(format!(
            "component {} is an image ({}); this node's runtime is process: start maelstromd with --runtime docker \
             where a Docker socket is, or define a command",
            component.name, image.reference
        ))),
    }
}

/// Where the instance will listen: its fixed port if that is free, else any free one.
///
/// The port is free at this moment only; a program that loses the race for it ends at once and is started again.
pub(super) fn address(component: &Component, taken: &BTreeSet<u16>) -> Result<SocketAddr, RuntimeError> {
    if let Some(port) = component.port {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
        return match TcpListener::bind(address) {
            Ok(_) => Ok(address),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(failed(format!(
                "port {port} of component {} is taken already (by another program, or by another instance: without \
                 a fixed port each instance is given a free one in PORT)",
                component.name
            ))),
            Err(error) => Err(failed(format!("port {port} of component {} cannot be used: {error}", component.name))),
        };
    }
    for _ in 0..PORT_TRIES {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let address = listener.map_err(|error| failed(format!("no free port on this node: {error}")))?;
        if !taken.contains(&address.port()) {
            return Ok(address);
        }
    }
    Err(failed("no free port on this node: all that were offered are of instances that run".to_owned()))
}

/// The command, ready to start but for its output.
pub(super) fn build(
    spec: &InstanceSpec,
    owner: &Owner,
    address: SocketAddr,
    home: &Home,
) -> Result<Command, RuntimeError> {
    let component = &spec.component;
    let wanted = wanted(component)?;
    let cwd = wanted.cwd.as_ref().map_or_else(|| home.scratch(), PathBuf::from);
    if !cwd.is_dir() {
        return Err(failed(format!(
            "working directory {} of component {} is not there",
            cwd.display(),
            component.name
        )));
    }
    let Some((name, arguments)) = wanted.argv.split_first() else {
        return Err(failed(format!("component {} has an empty command", component.name)));
    };
    let path = component.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let program = program(name, &path, &cwd)?;
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).current_dir(cwd).stdin(Stdio::null()).process_group(0).env_clear();
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(spec.variables());
    // After those of the component: these are how we find our processes again.
    command
        .env("PORT", address.port().to_string())
        .env("MAELSTROM_COMPONENT", component.name.as_str())
        .env("MAELSTROM_INSTANCE_ID", spec.id.as_str())
        .env("MAELSTROM_VERSION", &spec.version)
        .env("MAELSTROM_NODE_ID", owner.node.to_string())
        .env("MAELSTROM_CLUSTER_ID", owner.cluster.to_string());
    Ok(command)
}

/// Tells the command where the files with its settings are.
pub(super) fn hand_over(command: &mut Command, placed: &Placed) {
    let Some(dir) = &placed.dir else { return };
    command.env(DIRECTORY, dir);
    for (variable, name) in &placed.variables {
        command.env(variable, dir.join(name));
    }
}

/// Finds the file to execute, as a shell would.
fn program(name: &str, path: &OsString, cwd: &Path) -> Result<PathBuf, RuntimeError> {
    let executable = |file: &Path| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let file = cwd.join(name);
        return match file.try_exists() {
            Ok(true) if executable(&file) => Ok(file),
            Ok(true) => Err(failed(format!("command {} is not executable (chmod +x?)", file.display()))),
            Ok(false) => Err(failed(format!("command {} is not there", file.display()))),
            Err(error) => Err(failed(format!("command {} cannot be looked at: {error}", file.display()))),
        };
    }
    let mut refused = None;
    for directory in std::env::split_paths(path) {
        let file = directory.join(name);
        if executable(&file) {
            return Ok(file);
        }
        if file.is_file() {
            refused = Some(file);
        }
    }
    Err(failed(match refused {
        Some(file) => format!("command {} is not executable (chmod +x?)", file.display()),
        None => format!("command {name:?} is not in PATH ({})", path.to_string_lossy()),
    }))
}

/// What a failed start means.
pub(super) fn explain(command: &Command, error: &io::Error) -> RuntimeError {
    let program = Path::new(command.get_program()).display();
    failed(match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT) => {
            format!("command {program} is there, but what runs it is not: see its #! line, or its dynamic loader")
        }
        Some(rustix::io::Errno::NOEXEC) => {
            format!("command {program} is no program for this machine: no #! line, or another processor")
        }
        _ => format!("command {program} could not be started: {error}"),
    })
}
